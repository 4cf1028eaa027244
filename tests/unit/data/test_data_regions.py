"""Masks of polygons, run lengths and boxes, and invalid ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from flmm.answers.run_lengths import encode_rle
from flmm.data.sample import BoxRegion, CocoRegion, GroundedPhrase, GroundedText, Mask
from flmm.errors import InputError

INSIDE = np.zeros((4, 6), dtype=bool)
INSIDE[1:3, 2:5] = True


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "is null; give polygons"),
        ("polygon", 'is "polygon"; give polygons'),
        ([], r"is \[\]; give polygons"),
        ([[]], "fewer than 3 corners"),
        ([[1.0, 2.0, 3.0, 4.0]], "fewer than 3 corners"),
        ([1.0, 2.0, 5.0, 2.0, 5.0, 4.0], "a polygon is 1.0; give a list of lists"),
        ([{"size": [4, 6], "counts": [24]}], "a polygon is {.*; give a list of lists"),
        (["123456"], 'a polygon is "123456"; give a list of lists'),
        ([[[1.0, 2.0], [5.0, 2.0], [5.0, 4.0]]], "cannot be read .*'list'"),
        ([[1.0, 2.0, None, 4.0, 5.0, 6.0]], "cannot be read .*'NoneType'"),
        ([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0]], "7 numbers, so a corner lacks its y"),
        ([[1.0, 2.0, 3.0, 4.0, 5.0, float("nan")]], "no number"),
        ([[1.0, 2.0, 3.0, 4.0, 5.0, float("inf")]], "no number"),
        ([[1.0, 2.0, 1e12, 4.0, 5.0, 6.0]], "corner at 1e[+]12, far outside"),
        ([[8.0, 1.0, 10.0, 1.0, 10.0, 3.0]], "covers no pixel"),
        ([[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]], "covers no pixel"),
        ({"size": [4, 6], "counts": [24]}, "covers no pixel"),
        ({"size": [4, 6], "counts": [10, 15]}, "cover 25 pixels of 24"),
        ({"size": [4, 6], "counts": [10, 10**30]}, "numbers from 0 to 24"),
        ({"size": [4, 6], "counts": [-1, 25]}, "whole numbers"),
        ({"size": [4, 6], "counts": [1.5, 22.5]}, "whole numbers"),
        ({"size": [6, 4], "counts": [10, 14]}, r"\[6, 4\] cannot belong to a picture of \[4, 6\]"),
        ({"size": [4, 6], "counts": "not run lengths ~~~~"}, "damaged"),
        ({"size": [4, 6], "counts": "P" * 40}, "damaged"),
        ({"size": [4, 6], "counts": "5P"}, "cut short"),
        ({"size": [4, 6], "counts": "5"}, "cover 5 pixels"),
        ({"size": [4, 6]}, "no counts"),
        ({"counts": [24]}, "null cannot belong"),
    ],
)
def test_segmentation_that_does_not_fit_is_refused(segmentation: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CocoRegion(segmentation).mask((4, 6))


def test_polygons_run_lengths_and_boxes_give_the_same_mask() -> None:
    square = CocoRegion([[2.0, 1.0, 5.0, 1.0, 5.0, 3.0, 2.0, 3.0]])
    listed = CocoRegion({"size": [4, 6], "counts": [9, 2, 2, 2, 2, 2, 5]})
    for region in (square, listed, BoxRegion((2.0, 1.0, 5.0, 3.0))):
        assert np.array_equal(region.mask((4, 6)), INSIDE)


@pytest.mark.parametrize("line", [[], [3.0, 2.0], [0.0, 0.0, 5.0, 3.0]])
@pytest.mark.parametrize("is_first", [True, False])
def test_one_or_two_corners_beside_a_polygon_add_nothing(line: list[float], is_first: bool) -> None:
    square = [2.0, 1.0, 5.0, 1.0, 5.0, 3.0, 2.0, 3.0]
    rings = [line, square] if is_first else [square, line]
    assert np.array_equal(CocoRegion(rings).mask((4, 6)), INSIDE)


def test_regions_are_clipped_at_the_edges() -> None:
    polygon = CocoRegion([[2.0, -3.0, 9.0, -3.0, 9.0, 3.0, 2.0, 3.0]])
    for region in (polygon, BoxRegion((2.0, -3.0, 9.0, 3.0))):
        mask = region.mask((4, 6))
        assert mask[:3, 2:].all()
        assert mask.sum() == 12


@given(
    arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70)).filter(np.any)
)
def test_compressed_run_lengths_are_decoded(mask: Mask) -> None:
    decoded = CocoRegion(dict(encode_rle(mask))).mask((mask.shape[0], mask.shape[1]))
    assert np.array_equal(decoded, mask)


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30))
def test_any_text_as_run_lengths_is_a_mask_or_refused(counts: str) -> None:
    try:
        mask = CocoRegion({"size": [3, 5], "counts": counts}).mask((3, 5))
    except InputError:
        return
    assert mask.shape == (3, 5)


@pytest.mark.parametrize(
    "box",
    [(2.0, 1.0, 2.0, 3.0), (5.0, 3.0, 2.0, 1.0), (7.0, 1.0, 9.0, 3.0), (float("nan"), 0, 9, 9)],
)
def test_box_without_a_pixel_is_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(InputError, match="covers no pixel"):
        BoxRegion(box).mask((4, 6))


@pytest.mark.parametrize(("start", "end"), [(0, 4), (-1, 2), (2, 2), (3, 1)])
def test_phrase_outside_its_text_is_refused(start: int, end: int) -> None:
    with pytest.raises(InputError, match=rf"phrase {start}\.\.{end} is outside its 3 characters"):
        GroundedText("one", "caption", "a\U0001f431b", (GroundedPhrase(start, end, ()),))
