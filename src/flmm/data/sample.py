"""Samples, which every reader returns: pictures, texts about them, and the phrases' regions.

Letters: ``H W`` picture size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flmm.data.segmentation import draw_segmentation
from flmm.errors import InputError
from flmm.pictures.reading import read_picture
from flmm.types import Size

Mask = NDArray[np.bool_]
TextKind = Literal["caption", "expression", "instruction"]
"""A text with many phrases; a referring expression, one phrase; a question that implies one."""


class Region(Protocol):
    """A region of a picture; its mask is drawn when it is needed."""

    def mask(self, size: Size) -> Mask:
        """Return the mask, (H, W) bool.

        Raises:
            InputError: the region does not fit a picture of that size, or cannot be read.
        """


@dataclass(frozen=True)
class CocoRegion:
    """A region as COCO's polygons or run lengths, unchecked until its mask is drawn."""

    segmentation: object

    def mask(self, size: Size) -> Mask:
        return draw_segmentation(self.segmentation, size)


@dataclass(frozen=True)
class BoxRegion:
    """The pixels whose centres are inside x0, y0, x1, y1, in picture pixels."""

    box: tuple[float, float, float, float]

    def mask(self, size: Size) -> Mask:
        height, width = size
        x0, y0, x1, y1 = self.box
        rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
        inside_rows, inside_columns = (y0 <= rows) & (rows < y1), (x0 <= columns) & (columns < x1)
        mask: Mask = inside_rows[:, None] & inside_columns
        if not mask.any():
            raise InputError(
                f"box {self.box} covers no pixel of its picture of {list(size)} (height, width);"
                " give x0, y0, x1, y1 in pixels"
            )
        return mask


@dataclass(frozen=True)
class PanopticRegion:
    """A segment of a panoptic PNG, whose colours are segment ids."""

    file: Path
    segment: int

    def mask(self, size: Size) -> Mask:
        segment_ids = _read_segment_ids(self.file)
        if segment_ids.shape != size:
            raise InputError(
                f"panoptic picture {str(self.file)!r} is {segment_ids.shape}, its picture {size}"
                " (height, width); take both from the same release"
            )
        mask = np.asarray(segment_ids == self.segment)
        if not mask.any():
            raise InputError(
                f"panoptic picture {str(self.file)!r} has no segment {self.segment};"
                " take both files from the same release"
            )
        return mask


@dataclass(frozen=True)
class MissingRegion:
    """The region of an invalid text: ``mask`` raises, so that only this text is skipped."""

    reason: str
    """The error's message."""

    def mask(self, size: Size) -> Mask:  # noqa: ARG002 (wrong for any size)
        raise InputError(self.reason)


@dataclass(frozen=True)
class GroundedPhrase:
    """``text[start:end]`` of its text, in code points, and the regions that it means."""

    start: int
    end: int
    regions: tuple[Region, ...]
    ignored: tuple[Region, ...] = ()
    """Left out of training and metrics."""
    plural: bool = False
    """Whether it means several things."""
    is_thing: bool | None = None
    """Things can be counted, stuff (sky, grass) cannot; None: unknown, or both in one phrase."""
    label: str | None = None
    """Its words where the text does not say them; ``start`` and ``end`` are then the whole text's.
    What the LMM says by itself is compared with such phrases, but none is put in its mouth."""

    def words(self, text: str) -> str:
        """Return what it is called in its text, or its label."""
        return text[self.start : self.end] if self.label is None else self.label

    def mask(self, size: Size) -> Mask:
        """Return the union of its regions, (H, W) bool."""
        return _union(self.regions, size)

    def ignored_mask(self, size: Size) -> Mask:
        """Return the union of its ignored regions, (H, W) bool."""
        return _union(self.ignored, size)


@dataclass(frozen=True)
class GroundedText:
    """A text about a picture, and its phrases in the text's order."""

    identity: str
    """Unique in its data set; identifies the text in results."""
    kind: TextKind
    text: str
    phrases: tuple[GroundedPhrase, ...]
    question: str | None = None
    """The question that the text answers; None: the head's own prompt."""
    answer: str | None = None
    """The true answer to an instruction, if the data set has one."""

    def __post_init__(self) -> None:
        for phrase in self.phrases:
            if not 0 <= phrase.start < phrase.end <= len(self.text):
                raise InputError(
                    f"text {self.identity}: phrase {phrase.start}..{phrase.end} is outside its"
                    f" {len(self.text)} characters; count code points from 0, end exclusive"
                )


def invalid_text(text_id: str, kind: TextKind, reason: str) -> GroundedText:
    """Return a placeholder for an invalid text; it is skipped when the sample is loaded."""
    return GroundedText(text_id, kind, "?", (GroundedPhrase(0, 1, (MissingRegion(reason),)),))


@dataclass(frozen=True)
class Sample:
    """One picture and every text about it."""

    picture: Path
    texts: tuple[GroundedText, ...]

    def read_picture(self) -> Image.Image:
        """Read the picture.

        Raises:
            InputError: it is missing or damaged.
        """
        return read_picture(self.picture)


def _union(regions: Sequence[Region], size: Size) -> Mask:
    union: Mask = np.zeros(size, dtype=np.bool_)
    for region in regions:
        union |= region.mask(size)
    return union


# All phrases of a narrative are in one map of 0.5 to 8 MB, and are read one after the other.
@lru_cache(maxsize=4)
def _read_segment_ids(file: Path) -> NDArray[np.int32]:
    """Return the segment id of each pixel of a panoptic PNG, (H, W) int32."""
    colours = np.asarray(read_picture(file), dtype=np.int32)
    segment_ids = np.asarray(colours @ np.array([1, 256, 256**2], dtype=np.int32))
    segment_ids.setflags(write=False)
    return segment_ids
