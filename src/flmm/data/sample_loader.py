"""Loading of samples: pictures and masks; unreadable ones are reported, counted and skipped."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from flmm.data.sample import GroundedText, Mask, Sample
from flmm.errors import InputError
from flmm.types import Size


@dataclass(frozen=True)
class LoadedText:
    """A text with its phrases' masks."""

    text: GroundedText
    masks: Mask
    """(phrases, H, W) bool."""
    ignored_masks: Mask
    """(phrases, H, W) bool: pixels left out of training and metrics."""


@dataclass(frozen=True)
class LoadedSample:
    """A picture with those of its texts that could be read."""

    sample: Sample
    picture: Image.Image
    texts: tuple[LoadedText, ...]


@dataclass
class SampleLoader:
    """A loader that counts. ``on_message`` gets one line for each skipped picture or text."""

    on_message: Callable[[str], None]
    pictures: int = field(default=0, init=False)
    """Pictures that were read."""
    skipped_pictures: int = field(default=0, init=False)
    """Missing, damaged, or without any text that could be read."""
    skipped_texts: int = field(default=0, init=False)
    """Of pictures that were read."""

    def load(self, samples: Iterable[Sample]) -> Iterator[LoadedSample]:
        """Yield each sample that can be read."""
        for sample in samples:
            try:
                picture = sample.read_picture()
            except InputError as error:
                self.skipped_pictures += 1
                self.on_message(f"skipped: {error}")
                continue
            size = (picture.height, picture.width)
            texts = tuple(
                loaded
                for text in sample.texts
                if (loaded := self._load_text(sample, text, size)) is not None
            )
            if not texts:
                self.skipped_pictures += 1
                continue
            self.pictures += 1
            self.skipped_texts += len(sample.texts) - len(texts)
            yield LoadedSample(sample, picture, texts)

    def _load_text(self, sample: Sample, text: GroundedText, size: Size) -> LoadedText | None:
        try:
            masks = [phrase.mask(size) for phrase in text.phrases]
            ignored = [phrase.ignored_mask(size) for phrase in text.phrases]
        except InputError as error:
            self.on_message(f"skipped text {text.identity} of {str(sample.picture)!r}: {error}")
            return None
        none = np.zeros((0, *size), dtype=np.bool_)
        return LoadedText(
            text, np.stack(masks) if masks else none, np.stack(ignored) if ignored else none
        )

    @property
    def summary(self) -> str:
        """One line for a run's end."""
        return (
            f"{self.pictures} pictures read; skipped {self.skipped_pictures} pictures"
            f" and {self.skipped_texts} texts of others"
        )
