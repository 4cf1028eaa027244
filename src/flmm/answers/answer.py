"""The answer that users get: the LMM's text and its phrases' masks in the picture.

Letters: ``H W`` picture size.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flmm.answers.coco import CocoSegmentation, build_coco_annotation, check_coco_segmentation
from flmm.answers.image_files import encode_png, save_image, write_masks
from flmm.answers.json_types import AnswerJson, CocoDataset
from flmm.answers.notebook import build_image, build_paragraph
from flmm.answers.other_libraries import ImageSegment, to_detections, to_image_segments
from flmm.answers.overlay import draw_overlay
from flmm.answers.overlay_of_several import draw_overlay_of_several
from flmm.answers.palette import phrase_colour, tint, to_hex
from flmm.answers.phrase import Phrase
from flmm.errors import InputError

if TYPE_CHECKING:
    from supervision import Detections

    from flmm.types import Size


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer about a picture with its grounded phrases."""

    text: str
    """Exactly what the LMM alone generates; for ``Grounder.segment``, the given phrases, joined by
    commas."""
    model: str
    """The head's folder or hub id."""
    lmm: str
    """The LMM's folder or hub id."""
    size: "Size"
    """(H, W) of the first picture."""
    phrases: tuple[Phrase, ...]
    timings: dict[str, float]
    """Seconds by stage, in the order in which the stages ran."""
    picture: Image.Image = field(repr=False)
    """RGB, as it was read: upright, without transparency; of several, the first."""
    later_pictures: tuple[Image.Image, ...] = field(default=(), repr=False)
    """The conversation's other pictures, in order."""

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """All pictures of the conversation; ``Phrase.picture`` is an index of them."""
        return self.picture, *self.later_pictures

    def to_dict(self) -> AnswerJson:
        """Return the answer as JSON content, with masks as COCO's compressed run lengths."""
        return {
            "text": self.text,
            "model": self.model,
            "lmm": self.lmm,
            "size": list(self.size),
            "phrases": [phrase.to_dict() for phrase in self.phrases],
            "timings": {stage: round(seconds, 4) for stage, seconds in self.timings.items()},
        }

    def to_coco(
        self, file_name: str | Sequence[str] = "", *, segmentation: CocoSegmentation = "rle"
    ) -> CocoDataset:
        """Return a COCO instances data set: its pictures, a category for each distinct phrase.

        Args:
            file_name: of the picture, in ``images``; of several pictures, a list.
            segmentation: "rle" for compressed run lengths; "polygon" for rings along the edges of
                the pixels, which pycocotools turns into the very same masks. Since COCO's rings
                cannot be holes, a line without width leads from each hole to the ring around it.
                Empty masks stay run lengths.

        Raises:
            InputError: there is no such form of segmentations, or there are more or fewer file
                names than pictures.
        """
        check_coco_segmentation(segmentation)
        file_names = [file_name] if isinstance(file_name, str) else file_name
        sizes = [self.size, *((each.height, each.width) for each in self.later_pictures)]
        if len(file_names) != len(sizes) and file_name != "":
            raise InputError(
                f"{len(file_names)} file names for {len(sizes)} pictures; give one for each"
            )
        names = list(dict.fromkeys(phrase.text for phrase in self.phrases))
        return {
            "images": [
                {"id": number, "width": width, "height": height, "file_name": name}
                for number, ((height, width), name) in enumerate(
                    zip(sizes, file_names if file_name else [""] * len(sizes), strict=True), 1
                )
            ],
            "annotations": [
                build_coco_annotation(
                    phrase.to_dict(),
                    number,
                    phrase.picture + 1,
                    names.index(phrase.text) + 1,
                    segmentation,
                )
                for number, phrase in enumerate(self.phrases, 1)
            ],
            "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        }

    def to_image_segmentation(self) -> list[ImageSegment]:
        """Return what the image-segmentation pipeline of transformers returns.

        For each phrase its ``label``, ``score`` and ``mask``, an image of mode "L", 255 inside.
        """
        return to_image_segments(self.phrases)

    def to_annotated_image(
        self, picture: int = 0
    ) -> tuple[Image.Image, list[tuple[NDArray[np.bool_], str]]]:
        """Return the value of gradio's ``AnnotatedImage``: a picture, its masks and their phrases.

        ``picture``: which of several, from 0.
        """
        phrases = self._phrases_of(picture)
        return self.pictures[picture], [(phrase.mask, phrase.text) for phrase in phrases]

    def to_supervision(self, picture: int = 0) -> "Detections":
        """Return a picture's phrases as ``supervision.Detections``, classes by their texts.

        ``picture``: which of several, from 0.

        The phrases' texts are in ``data["class_name"]``. Where all masks together have more than
        2**27 pixels, ``mask`` is a ``supervision.CompactMask``, else an (N, H, W) bool array.
        Needs ``pip install 'flmm[supervision]'``.

        Raises:
            InputError: supervision is not installed, or there is no such picture.
        """
        phrases = self._phrases_of(picture)
        size = self.size if picture == 0 else self.pictures[picture].size[::-1]
        return to_detections(phrases, size)

    def _phrases_of(self, picture: int) -> list[Phrase]:
        if not 0 <= picture < len(self.pictures):
            raise InputError(f"picture is {picture}; give one of 0 to {len(self.pictures) - 1}")
        return [phrase for phrase in self.phrases if phrase.picture == picture]

    def save_masks(self, folder: str | Path) -> list[Path]:
        """Write each mask as an 8-bit grey PNG file, 255 inside it and 0 elsewhere.

        Args:
            folder: made where it is missing; files of the same names are replaced.

        Returns:
            The files, named by the phrases' numbers and texts, such as "01-A-cat.png".

        Raises:
            InputError: a file cannot be written.
        """
        return write_masks(Path(folder), ((phrase.text, phrase.mask) for phrase in self.phrases))

    @cached_property
    def overlay(self) -> Image.Image:
        """RGB: the pictures with the masks on them, and a legend."""
        if self.later_pictures:
            return draw_overlay_of_several(self.pictures, self.text, self.phrases)
        return draw_overlay(self.picture, self.text, self.phrases)

    def save(self, path: str | Path) -> None:
        """Write the overlay, in the format that the file name's suffix names.

        The file is written completely or not at all.

        Raises:
            InputError: the suffix is none of ``OUTPUT_FORMATS``, its format cannot hold so large a
                picture, or the file cannot be written.
        """
        save_image(self.overlay, path)

    def _repr_png_(self) -> bytes:
        return encode_png(self.overlay)

    def _repr_html_(self) -> str:
        description = f"the picture with {len(self.phrases)} marked phrases"
        return build_paragraph(self._marked_text()) + build_image(self.overlay, description)

    def _marked_text(self) -> str:
        """Return the text as HTML, each phrase on its colour."""
        parts: list[str] = []
        done = 0
        numbered = sorted(enumerate(self.phrases), key=lambda pair: pair[1].start)
        for number, phrase in numbered:
            if phrase.start < done:
                continue  # overlaps one that is marked already
            colour = phrase_colour(number)
            style = (
                f"background: {to_hex(tint(colour, 0.3))}; color: #202124; "
                f"border-bottom: 3px solid {to_hex(colour)}"
            )
            parts.append(html.escape(self.text[done : phrase.start]))
            marked = html.escape(self.text[phrase.start : phrase.end])
            parts.append(f'<span style="{style}">{marked}</span>')
            done = phrase.end
        return "".join([*parts, html.escape(self.text[done:])])
