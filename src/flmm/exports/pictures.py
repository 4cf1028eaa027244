"""The pictures of a results file, each with the labelled masks of all its answers.

Letters: ``h w`` box size.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from flmm.answers.json_types import AnswerJson, PhraseJson
from flmm.answers.run_lengths import decode_rle_in_box
from flmm.errors import InputError
from flmm.exports.labels import LabelMap
from flmm.types import Box, Size

PictureAnswer = tuple[str, AnswerJson]
"""A picture's name and an answer about it; a picture may have several."""


@dataclass(frozen=True)
class LabelledMask:
    """A phrase with a mask that is not empty."""

    label: str
    phrase: PhraseJson

    @property
    def box(self) -> Box:
        """(x0, y0, x1, y1), x1 and y1 exclusive."""
        x0, y0, x1, y1 = self.phrase["box"]
        return x0, y0, x1, y1

    @property
    def part(self) -> NDArray[np.bool_]:
        """(h, w) bool: the mask inside its box."""
        return decode_rle_in_box(self.phrase["mask"], self.box)


@dataclass(frozen=True)
class LabelledPicture:
    """A picture and what is exported of it."""

    number: int
    """From 1, in the order of the pictures' last answers."""
    image: str
    """As in the results: relative to the folder or list that was asked about, or absolute."""
    size: Size
    """(H, W)."""
    model: str
    """The head's name in the answers."""
    masks: tuple[LabelledMask, ...]

    @property
    def file(self) -> Path:
        """A relative path with the picture's name, that leads nowhere else."""
        path = PurePath(self.image)
        return Path(*(part for part in path.parts if part not in (path.anchor, "..")))


@dataclass
class ExportCounts:
    """What was exported, and what was not."""

    pictures: int = 0
    masks: int = 0
    empty: int = 0
    """Phrases whose mask has no pixel."""
    below_min_score: int = 0
    unlabelled: int = 0
    """Phrases that the label map does not have."""


@dataclass
class LabelledPictures:
    """The pictures of results; iterated over, it reads the results anew.

    Args:
        results: pairs of a picture's name and an answer; read several times.
        labels: from phrases to labels; None for the phrases' own texts.
        min_score: phrases with a lower score are left out.

    Raises:
        InputError: while it reads, if answers about one picture have several sizes.
    """

    results: Iterable[PictureAnswer]
    labels: LabelMap | None = None
    min_score: float = 0.0
    counts: ExportCounts = field(default_factory=ExportCounts)
    """Of the last iteration."""

    @cached_property
    def _survey(self) -> tuple[Counter[str], list[str]]:
        """The number of answers about each picture, and the labels of all masks."""
        num_answers: Counter[str] = Counter()
        labels: dict[str, None] = {}
        for image, answer in self.results:
            num_answers[image] += 1
            labels |= dict.fromkeys(mask.label for mask in self._label(answer))
        return num_answers, list(labels)

    @property
    def all_labels(self) -> list[str]:
        """Those of the map, or all phrases with a mask in the order in which they appear."""
        return self._survey[1] if self.labels is None else self.labels.labels

    def __iter__(self) -> Iterator[LabelledPicture]:
        remaining = self._survey[0].copy()
        self.counts = counts = ExportCounts()
        waiting: dict[str, list[AnswerJson]] = {}
        for image, answer in self.results:
            remaining[image] -= 1
            if remaining[image]:
                waiting.setdefault(image, []).append(answer)
                continue
            answers = [*waiting.pop(image, []), answer]
            counts.pictures += 1
            masks = tuple(mask for each in answers for mask in self._label(each))
            counts.masks += len(masks)
            yield LabelledPicture(
                counts.pictures, image, _find_size(image, answers), answer["model"], masks
            )

    def _label(self, answer: AnswerJson) -> Iterator[LabelledMask]:
        for phrase in answer["phrases"]:
            label = phrase["text"] if self.labels is None else self.labels.find(phrase["text"])
            if phrase["score"] < self.min_score:
                self.counts.below_min_score += 1
            elif not phrase["area"]:
                self.counts.empty += 1
            elif label is None:
                self.counts.unlabelled += 1
            else:
                yield LabelledMask(label, phrase)


def _find_size(image: str, answers: list[AnswerJson]) -> Size:
    sizes = {(answer["size"][0], answer["size"][1]) for answer in answers}
    if len(sizes) > 1:
        raise InputError(
            f"the answers about {image!r} have several sizes {sorted(sizes)}, perhaps since the"
            " picture changed; ask about it anew"
        )
    return sizes.pop()
