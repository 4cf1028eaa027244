"""What every reader gives: pictures, texts about them, and where the texts' phrases are.

Letters: ``H W`` picture size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from flmm.errors import InputError
from flmm.pictures import read_picture
from flmm.types import Size

Mask = NDArray[np.bool_]
Polygons = Sequence[Sequence[float]]
"""Each x0, y0, x1, y1, … in picture pixels."""
RunLengths = dict[str, object]
"""COCO's ``{"size": [H, W], "counts": …}``, counts as a list or compressed as a string."""
TextKind = Literal["caption", "expression", "instruction"]
"""A narrative with many phrases; a referring expression, one phrase; a question that implies it."""


class Region(Protocol):
    """One region of a picture, drawn when it is needed."""

    def mask(self, size: Size) -> Mask:
        """(H, W) bool.

        Raises:
            InputError: the region does not fit a picture of that size, or cannot be read.
        """


@dataclass(frozen=True)
class CocoRegion:
    """A region in COCO's forms."""

    segmentation: Polygons | RunLengths

    def mask(self, size: Size) -> Mask:
        height, width = size
        try:
            if not isinstance(self.segmentation, dict):
                rings = [list(map(float, ring)) for ring in self.segmentation]
                if any(len(ring) < 6 or len(ring) % 2 for ring in rings) or not rings:
                    raise InputError("a polygon has fewer than 3 corners; give x0, y0, x1, y1, …")
                if not all(math.isfinite(number) for ring in rings for number in ring):
                    raise InputError("a polygon has a corner that is no number; draw it anew")
                runs = coco.merge(coco.frPyObjects(rings, height, width))
            else:
                declared = self.segmentation.get("size")
                if declared != [height, width]:
                    raise InputError(
                        f"run lengths of a mask of {declared} cannot belong to a picture of"
                        f" {[height, width]} (height, width); draw them anew"
                    )
                runs = _runs(self.segmentation.get("counts"), height, width)
            return np.asarray(coco.decode(runs), dtype=np.bool_)
        except (ValueError, TypeError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"a segmentation cannot be read ({error}); draw it anew") from error


@dataclass(frozen=True)
class PanopticRegion:
    """One segment of a panoptic PNG, whose colours are the segments' numbers."""

    file: Path
    segment: int

    def mask(self, size: Size) -> Mask:
        colours = np.asarray(read_picture(self.file), dtype=np.int64)
        if colours.shape[:2] != size:
            raise InputError(
                f"panoptic picture {str(self.file)!r} is {colours.shape[:2]}, its picture {size}"
                " (height, width); take both from the same release"
            )
        numbers = colours @ np.array([1, 256, 256**2])
        return np.asarray(numbers == self.segment)


@dataclass(frozen=True)
class GroundedPhrase:
    """``text[start:end]`` of its text, in code points, and the regions that it means."""

    start: int
    end: int
    regions: tuple[Region, ...]
    ignored: tuple[Region, ...] = ()
    """Where nobody can say what is right; neither learned nor measured."""
    plural: bool = False
    """Whether it means several things."""
    is_thing: bool | None = None
    """Things can be counted, stuff (sky, grass) cannot; None: unknown, or both in one phrase."""

    def mask(self, size: Size) -> Mask:
        """(H, W) bool: all its regions together."""
        return _union(self.regions, size)

    def ignored_mask(self, size: Size) -> Mask:
        """(H, W) bool: all that is ignored."""
        return _union(self.ignored, size)


@dataclass(frozen=True)
class GroundedText:
    """A text about a picture, and its phrases in the text's order."""

    identity: str
    """Unique in its data set; what per-sample results are kept under."""
    kind: TextKind
    text: str
    phrases: tuple[GroundedPhrase, ...]
    question: str | None = None
    """What the text answers; None lets the head's own prompt ask."""

    def __post_init__(self) -> None:
        for phrase in self.phrases:
            if not 0 <= phrase.start < phrase.end <= len(self.text):
                raise InputError(
                    f"text {self.identity}: phrase {phrase.start}..{phrase.end} is outside its"
                    f" {len(self.text)} characters; count code points from 0, end exclusive"
                )


@dataclass(frozen=True)
class Sample:
    """One picture and every text about it."""

    picture: Path
    texts: tuple[GroundedText, ...]

    def read(self) -> Image.Image:
        """The picture.

        Raises:
            InputError: it is missing or damaged.
        """
        return read_picture(self.picture)


def _union(regions: Sequence[Region], size: Size) -> Mask:
    whole: Mask = np.zeros(size, dtype=np.bool_)
    for region in regions:
        whole |= region.mask(size)
    return whole


def _runs(counts: object, height: int, width: int) -> object:
    """COCO's own object of run lengths."""
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts.encode()}
    if not isinstance(counts, list):
        raise InputError(f"run lengths are {counts!r}; give a list or COCO's compressed string")
    if any(not isinstance(count, int) or count < 0 for count in counts):
        raise InputError("run lengths are not all whole numbers from 0 on; draw the mask anew")
    if sum(counts) != height * width:
        raise InputError(
            f"run lengths cover {sum(counts)} pixels of {height * width}; draw the mask anew"
        )
    return coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
