"""Masks as polygons along the edges of their pixels.

The pixel in row y and column x is the square from (x, y) to (x + 1, y + 1). Pixels that touch at a
corner alone belong to different polygons.

Letters: ``h w`` size of a mask or of its part in a box, ``K`` corners of a ring, ``S`` horizontal
sides of all rings.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.int64]
"""(K, 2): x and y of its corners, the last of which is joined to the first."""


@dataclass(frozen=True, eq=False)
class Polygon:
    """A connected part of a mask."""

    exterior: Ring
    """Clockwise on the screen."""
    holes: tuple[Ring, ...]
    """Each counterclockwise."""


def mask_to_polygons(mask: NDArray[np.bool_], left: int = 0, top: int = 0) -> list[Polygon]:
    """Return the connected parts of an (h, w) bool mask, from the highest side to the lowest.

    Args:
        mask: a whole mask, or its part in a box.
        left, top: where the part lies in the picture.
    """
    outline = _Outline(mask)
    offset = np.array([left, top])
    parts: dict[int, list[Ring]] = {}
    part_of_ring: list[int] = []
    for number, ring in enumerate(outline.rings):
        above = outline.side_above(ring)
        part_of_ring.append(number if above is None else part_of_ring[outline.ring_of_side[above]])
        parts.setdefault(part_of_ring[number], []).append(outline.corners(ring) + offset)
    return [Polygon(exterior, tuple(holes)) for exterior, *holes in parts.values()]


def mask_to_rings(mask: NDArray[np.bool_], left: int = 0, top: int = 0) -> list[Ring]:
    """Return one ring for each connected part, for formats that have no holes.

    From each hole a line without width leads up to the ring above it and back. What is inside, by
    the even-odd rule and by the nonzero rule, is the part. The arguments are those of
    ``mask_to_polygons``.
    """
    outline = _Outline(mask)
    offset = np.array([left, top])
    holes_below: dict[int, list[list[int]]] = defaultdict(list)
    exteriors: list[list[int]] = []
    for ring in outline.rings:
        above = outline.side_above(ring)
        if above is None:
            exteriors.append(ring)
        else:
            # From the left end of its highest side around, and back there.
            holes_below[above].append([*ring[1:], ring[0]])
    return [_walk_with_holes(outline, ring, holes_below) + offset for ring in exteriors]


class _Outline:
    """The rings around an (h, w) bool mask and its holes, of horizontal and vertical sides.

    The mask is on the right of each side as one follows its ring. The horizontal sides are
    numbered from top to bottom and from left to right; the first side of a ring is its highest.
    """

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self._mask = mask
        height, width = mask.shape
        # 1 where a pixel is in the mask and the one above is not, -1 where it is the other way.
        steps = np.zeros((height + 1, width + 2), dtype=np.int8)
        steps[:-1, 1:-1] += mask
        steps[1:, 1:-1] -= mask
        places = np.flatnonzero(steps[:, 1:] != steps[:, :-1])
        y, x = np.divmod(places, width + 1)
        is_left_end, is_right_end = steps[y, x + 1] != 0, steps[y, x] != 0
        left, right, y = x[is_left_end], x[is_right_end], y[is_left_end]
        goes_right = steps[y, left + 1] > 0
        self._keys = y * (width + 1) + left
        """Increasing."""
        self._row_length = width + 1
        self.starts = np.stack([np.where(goes_right, left, right), y], axis=1)
        """(S, 2): x and y of the corner where each side starts."""
        self.ends = np.stack([np.where(goes_right, right, left), y], axis=1)
        self.rings = _follow_rings(_find_next_sides(self.starts, self.ends, goes_right))
        """The numbers of each ring's horizontal sides."""
        self.ring_of_side = np.empty(len(y), dtype=np.int64)
        for number, ring in enumerate(self.rings):
            self.ring_of_side[ring] = number

    def corners(self, ring: list[int]) -> Ring:
        """Return (K, 2), from the first side's start to the last one's end."""
        return np.stack([self.starts[ring], self.ends[ring]], axis=1).reshape(-1, 2)

    def side_above(self, ring: list[int]) -> int | None:
        """Return the side of another ring above the left end of a hole's highest side.

        None for a ring around a part of the mask.
        """
        x, y = self.ends[ring[0]].tolist()
        if x > self.starts[ring[0], 0]:
            return None
        background = np.flatnonzero(~self._mask[:y, x])
        row = int(background[-1]) + 1 if len(background) else 0
        key = row * self._row_length + x
        return int(np.searchsorted(self._keys, key, side="right")) - 1


def _find_next_sides(starts: Ring, ends: Ring, goes_right: NDArray[np.bool_]) -> list[int]:
    """Return the horizontal side that follows each; a vertical one joins the two."""
    count = len(starts)
    x, y = np.concatenate([ends, starts]).T
    # In each column, corners are joined in pairs from top to bottom. Where two pixels touch at a
    # corner alone, the upper one's vertical side ends and the lower one's begins.
    order = np.lexsort((np.tile(goes_right, 2), y, x))
    pairs = np.sort(order.reshape(-1, 2), axis=1)
    next_sides = np.empty(count, dtype=np.int64)
    next_sides[pairs[:, 0]] = pairs[:, 1] - count
    following: list[int] = next_sides.tolist()
    return following


def _follow_rings(next_sides: list[int]) -> list[list[int]]:
    """Return the sides of each ring in their order, the rings in the order of their first ones."""
    seen = bytearray(len(next_sides))
    rings = []
    for first in range(len(next_sides)):
        if seen[first]:
            continue
        ring = []
        side = first
        while not seen[side]:
            seen[side] = True
            ring.append(side)
            side = next_sides[side]
        rings.append(ring)
    return rings


def _walk_with_holes(
    outline: _Outline, exterior: list[int], holes_below: Mapping[int, list[list[int]]]
) -> Ring:
    """Return the corners of a ring, with a detour around each hole below one of its sides."""
    walked: list[Ring] = []
    # A stack and no recursion: there may be thousands of holes, each below another one.
    steps: list[Ring | list[int]] = [exterior]
    while steps:
        step = steps.pop()
        if isinstance(step, list):
            steps += _split_at_holes(outline, step, holes_below)[::-1]
        else:
            walked.append(step)
    corners = np.concatenate(walked)
    repeats = (corners == np.roll(corners, 1, axis=0)).all(axis=1)
    return np.delete(corners, np.flatnonzero(repeats), axis=0)


def _split_at_holes(
    outline: _Outline, ring: list[int], holes_below: Mapping[int, list[list[int]]]
) -> list[Ring | list[int]]:
    """Return a ring's corners in pieces, and between them the holes below its sides."""
    corners = outline.corners(ring)
    pieces: list[Ring | list[int]] = []
    done = 0
    for place, side in enumerate(ring):
        if side not in holes_below:
            continue
        start = 2 * place + 1
        pieces.append(corners[done:start])
        done = start
        for hole in sorted(holes_below[side], key=lambda hole: int(outline.ends[hole[-1], 0])):
            x, y = outline.ends[hole[-1]]
            above = (x, outline.starts[side, 1])
            pieces += [np.array([above, (x, y)]), hole, np.array([above])]
    return [*pieces, corners[done:]]
