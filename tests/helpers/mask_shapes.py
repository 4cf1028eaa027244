"""Masks that formats get wrong: one pixel, rings, parts that touch at a corner, full, huge."""

import numpy as np
from numpy.typing import NDArray

MASK_SHAPES = (
    "one pixel", "two pixels", "two pixels that touch at a corner", "last pixel", "ring",
    "ring in a ring", "two holes, one below the other", "holes that touch at a corner",
    "several parts", "line", "noise", "empty", "full", "1x1", "1x1 empty", "one row", "one column",
)  # fmt: skip
"""The names of small masks, for ``build_mask``."""


def build_mask(name: str) -> NDArray[np.bool_]:
    """Return a small mask, (H, W) bool; all but the last five names have 12 rows, 17 columns."""
    if name in ("1x1", "1x1 empty"):
        return np.full((1, 1), name == "1x1")
    if name == "one row":
        return np.array([[False, True, True, False, True]])
    if name == "one column":
        return build_mask("one row").T.copy()
    if name == "noise":
        return np.random.default_rng(0).random((12, 17)) < 0.5
    mask = np.full((12, 17), name == "full")
    inside: dict[str, list[tuple[slice | int, slice | int]]] = {
        "one pixel": [(3, 5)],
        "two pixels": [(3, slice(5, 7))],
        "two pixels that touch at a corner": [(3, 5), (4, 6)],
        "last pixel": [(11, 16)],
        "ring": [(slice(2, 9), slice(3, 12))],
        "ring in a ring": [(slice(0, 11), slice(0, 15))],
        "two holes, one below the other": [(slice(1, 11), slice(2, 9))],
        "holes that touch at a corner": [(slice(1, 9), slice(1, 9))],
        "several parts": [(slice(0, 3), slice(0, 4)), (slice(5, 12), slice(8, 17)), (9, 1)],
        "line": [(index, index) for index in range(12)],
    }
    outside: dict[str, list[tuple[slice | int, slice | int]]] = {
        "ring": [(slice(4, 6), slice(5, 10))],
        "ring in a ring": [(slice(1, 10), slice(1, 14))],
        "two holes, one below the other": [(slice(3, 5), slice(4, 6)), (slice(7, 9), slice(4, 7))],
        "holes that touch at a corner": [(slice(3, 5), slice(3, 5)), (slice(5, 7), slice(5, 7))],
    }
    for place in inside.get(name, []):
        mask[place] = True
    for place in outside.get(name, []):
        mask[place] = False
    if name == "ring in a ring":
        mask[3:8, 4:11] = True
        mask[5, 6:8] = False
    return mask


def build_large_mask(height: int = 4000, width: int = 5000) -> NDArray[np.bool_]:
    """Return a mask of a 20-megapixel picture with curved edges, holes and several parts."""
    rows, columns = np.ogrid[:height, :width]
    return np.sin(rows / 310) * np.cos(columns / 270) + np.sin((rows + columns) / 690) > 0.4


def fill_polygons(rings: list[list[int]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill polygons by the even-odd rule, edge by edge: slow and simple."""
    inside: NDArray[np.bool_] = np.zeros(size, dtype=bool)
    for ring in rings:
        points = list(zip(ring[::2], ring[1::2], strict=True))
        for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
            assert (x0 == x1) != (y0 == y1)
            if x0 == x1:
                inside[min(y0, y1) : max(y0, y1), x0:] ^= True
    return inside
