"""Samples, which every reader returns: pictures, texts about them, and the phrases' regions.

Letters: ``H W`` picture size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from flmm.errors import InputError
from flmm.pictures.reading import read_picture
from flmm.types import Size

Mask = NDArray[np.bool_]
Polygons = Sequence[Sequence[float]]
"""Each x0, y0, x1, y1, … in picture pixels."""
UncheckedRunLengths = dict[str, object]
"""COCO's ``{"size": [H, W], "counts": …}``, counts as a list or compressed as a string."""
TextKind = Literal["caption", "expression", "instruction"]
"""A text with many phrases; a referring expression, one phrase; a question that implies one."""

_MAX_CORNER_DISTANCE = 4
"""Highest distance of a polygon's corner from the origin, in longer sides of the picture."""
_MAX_BITS = 60


class Region(Protocol):
    """A region of a picture; its mask is drawn when it is needed."""

    def mask(self, size: Size) -> Mask:
        """Return the mask, (H, W) bool.

        Raises:
            InputError: the region does not fit a picture of that size, or cannot be read.
        """


@dataclass(frozen=True)
class CocoRegion:
    """A region as COCO's polygons or run lengths; polygons are clipped at the edges, as in COCO."""

    segmentation: Polygons | UncheckedRunLengths

    def mask(self, size: Size) -> Mask:
        if isinstance(self.segmentation, dict):
            mask = _from_run_lengths(self.segmentation, size)
        else:
            mask = _from_polygons(self.segmentation, size)
        if not mask.any():
            raise InputError(
                f"a segmentation covers no pixel of its picture of {list(size)} (height, width);"
                " draw it anew"
            )
        return mask


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


def _from_polygons(polygons: Polygons, size: Size) -> Mask:
    height, width = size
    try:
        rings = [list(map(float, ring)) for ring in polygons]
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"a polygon cannot be read ({error}); draw it anew") from error
    if any(len(ring) < 6 or len(ring) % 2 for ring in rings) or not rings:
        raise InputError("a polygon has fewer than 3 corners; give x0, y0, x1, y1, …")
    if not all(math.isfinite(number) for ring in rings for number in ring):
        raise InputError("a polygon has a corner that is no number; draw it anew")
    # COCO's rasteriser walks along every edge and crashes on very large coordinates.
    farthest = max(abs(number) for ring in rings for number in ring)
    if farthest > _MAX_CORNER_DISTANCE * max(size):
        raise InputError(
            f"a polygon has a corner at {farthest:g}, far outside its picture of {[height, width]}"
            " (height, width); give positions in pixels"
        )
    return np.asarray(coco.decode(coco.merge(coco.frPyObjects(rings, height, width))), np.bool_)


def _from_run_lengths(run_lengths: UncheckedRunLengths, size: Size) -> Mask:
    height, width = size
    declared = run_lengths.get("size")
    if declared != [height, width]:
        raise InputError(
            f"run lengths of a mask of {declared!r} cannot belong to a picture of"
            f" {[height, width]} (height, width); draw them anew"
        )
    counts = run_lengths.get("counts")
    if isinstance(counts, str):
        counts = _decompress_counts(counts)
    if not isinstance(counts, list):
        raise InputError("run lengths have no counts; give a list or COCO's compressed string")
    if any(not isinstance(count, int) or count < 0 for count in counts):
        raise InputError("run lengths are not all whole numbers from 0 on; draw the mask anew")
    if sum(counts) != height * width:
        raise InputError(
            f"run lengths cover {sum(counts)} pixels of {height * width}; draw the mask anew"
        )
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def _decompress_counts(counts: str) -> list[int]:
    """Decompress COCO's run lengths.

    Each number is written in groups of 5 bits, the lowest first, as characters from "0" on; bit 5
    says that a group follows, bit 4 of the last group is the sign. From the fourth number on it is
    the difference to the number two before. ``pycocotools`` reads past the end of damaged strings.
    """
    numbers: list[int] = []
    number = shift = 0
    for character in counts:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > _MAX_BITS:
            raise InputError("compressed run lengths are damaged; draw the mask anew")
        number |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            number -= 1 << shift
        numbers.append(number + numbers[-2] if len(numbers) > 2 else number)
        number = shift = 0
    if shift:
        raise InputError("compressed run lengths are cut short; draw the mask anew")
    return numbers
