"""Masks of COCO's segmentations: polygons, or run lengths as a list or compressed to a string.

Real files have some that nothing can be drawn from, so each is checked before ``pycocotools``,
which does not check what it is given.

Letters: ``H W`` picture size.
"""

import json
import math
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from pydantic import Field

from flmm.errors import InputError
from flmm.types import Size

Segmentation = Annotated[
    list[list[float]] | dict[str, object] | object, Field(union_mode="left_to_right")
]
"""A segmentation in a file's schema. One that is neither polygons nor run lengths is let through:
it costs its text, not the file."""

_Mask = NDArray[np.bool_]
_MAX_CORNER_DISTANCE = 4
"""Highest distance of a polygon's corner from the origin, in longer sides of the picture."""
_MIN_NUMBERS = 6
"""Of a polygon: three corners."""
_MAX_BITS = 60
_MAX_SHOWN = 40
"""Characters of a wrong value in an error."""


def draw_segmentation(segmentation: object, size: Size) -> NDArray[np.bool_]:
    """Return the mask of a segmentation, (H, W) bool; polygons are clipped at the edges.

    Args:
        segmentation: polygons, each x0, y0, x1, y1, … in picture pixels, which are joined; or
            ``{"size": [H, W], "counts": …}``.
        size: of the picture.

    Raises:
        InputError: it is neither, is damaged, does not fit the picture, or covers no pixel.
    """
    if isinstance(segmentation, dict):
        mask = _draw_run_lengths(segmentation, size)
    elif isinstance(segmentation, list | tuple) and segmentation:
        mask = _draw_polygons(segmentation, size)
    else:
        raise InputError(
            f"a segmentation is {_shorten(segmentation)}; give polygons or run lengths"
        )
    if not mask.any():
        raise InputError(
            f"a segmentation covers no pixel of its picture of {list(size)} (height, width);"
            " draw it anew"
        )
    return mask


def _draw_polygons(polygons: list[object] | tuple[object, ...], size: Size) -> _Mask:
    height, width = size
    rings = [_read_ring(polygon) for polygon in polygons]
    # One or two corners enclose nothing; beside a polygon, pycocotools passes over them too.
    rings = [ring for ring in rings if len(ring) >= _MIN_NUMBERS]
    if not rings:
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


def _read_ring(polygon: object) -> list[float]:
    if not isinstance(polygon, list | tuple):
        raise InputError(
            f"a polygon is {_shorten(polygon)}; give a list of lists: [[x0, y0, x1, y1, …]]"
        )
    try:
        ring = [float(number) for number in polygon]
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"a polygon cannot be read ({error}); draw it anew") from error
    if len(ring) % 2:
        raise InputError(
            f"a polygon has {len(ring)} numbers, so a corner lacks its y; give x0, y0, x1, y1, …"
        )
    return ring


def _draw_run_lengths(run_lengths: dict[str, object], size: Size) -> _Mask:
    height, width = size
    declared = run_lengths.get("size")
    if declared != [height, width]:
        raise InputError(
            f"run lengths of a mask of {_shorten(declared)} cannot belong to a picture of"
            f" {[height, width]} (height, width); draw them anew"
        )
    counts = run_lengths.get("counts")
    if isinstance(counts, str):
        counts = _decompress_counts(counts)
    if not isinstance(counts, list):
        raise InputError("run lengths have no counts; give a list or COCO's compressed string")
    num_pixels = height * width
    if any(not isinstance(count, int) or not 0 <= count <= num_pixels for count in counts):
        raise InputError(
            f"run lengths are not all whole numbers from 0 to {num_pixels}, the picture's pixels;"
            " draw the mask anew"
        )
    if sum(counts) != num_pixels:
        raise InputError(
            f"run lengths cover {sum(counts)} pixels of {num_pixels}; draw the mask anew"
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


def _shorten(value: object) -> str:
    """Return a value for an error's line."""
    text = " ".join(json.dumps(value, default=repr).split())
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
