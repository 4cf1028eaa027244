"""Removal of specks and holes, as SAM's automatic mask generator does."""

import numpy as np
import pytest
from numpy.typing import NDArray

from flmm.masks.small_regions import remove_small_regions


def read_mask(text: str) -> NDArray[np.bool_]:
    return np.array([[pixel == "#" for pixel in row] for row in text.split()])


MASK = """
    ........#
    .####...#
    .#..#....
    .####....
    .....##..
"""


@pytest.mark.parametrize(
    ("min_area", "expected"),
    [
        (0, MASK),
        (1, MASK),
        # The speck has two pixels and the hole has two: smaller ones alone are removed.
        (2, MASK),
        (3, "......... .####.... .####.... .####.... .....##.."),
        # All regions are small, so the largest stays.
        (15, "......... .####.... .####.... .####.... .....##.."),
    ],
)
def test_regions_and_holes_below_the_area_are_removed(min_area: int, expected: str) -> None:
    mask = read_mask(MASK)
    assert np.array_equal(remove_small_regions(mask, min_area), read_mask(expected))
    assert np.array_equal(mask, read_mask(MASK)), "the mask that was given has changed"


def test_corners_connect() -> None:
    mask = read_mask("#... .#.. ..#. ...#")
    assert np.array_equal(remove_small_regions(mask, 4), mask)


def test_empty_mask_stays_empty() -> None:
    assert not remove_small_regions(np.zeros((3, 4), dtype=np.bool_), 100).any()
