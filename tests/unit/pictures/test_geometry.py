import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_head import CROPPED, PADDED, SQUARE

from flmm.pictures.geometry import (
    background_logit,
    crop_to_picture,
    mask_box,
    mask_boxes,
    place_on_picture,
    resize_to_picture,
)
from flmm.types import ImageGeometry


def test_padding_is_cropped_as_in_the_published_heads() -> None:
    geometry = ImageGeometry((64, 96), (64, 96), (16, 0), (96, 96), (12, 12))
    rows = torch.arange(64.0)[:, None].expand(64, 64)
    cropped = crop_to_picture(rows, geometry)
    assert cropped.shape == (43, 64)
    assert cropped[:, 0].tolist() == list(range(10, 53))


def test_picture_that_fills_the_canvas_is_not_cropped() -> None:
    logits = torch.randn(2, 16, 16)
    assert torch.equal(crop_to_picture(logits, SQUARE), logits)
    assert torch.equal(crop_to_picture(logits, CROPPED), logits)


def test_left_padding_is_cropped_from_columns() -> None:
    geometry = ImageGeometry((80, 51), (96, 61), (0, 17), (96, 96), (12, 12))
    columns = torch.arange(64.0).expand(64, 64)
    assert crop_to_picture(columns, geometry)[0].tolist() == list(range(11, 52))


def test_cropped_part_gets_a_negative_logit() -> None:
    logits = torch.full((1, 16, 16), 5.0)
    picture = resize_to_picture(logits, CROPPED)[0]
    # 36 columns of which 6 are cropped on either side: 8 of the picture's 48.
    expected = torch.full((32, 48), -1.0)
    expected[:, 8:40] = 5.0
    torch.testing.assert_close(picture, expected)


def test_padded_picture_is_resized_completely() -> None:
    picture = resize_to_picture(torch.full((1, 11, 16), 5.0), PADDED)
    torch.testing.assert_close(picture, torch.full((1, 32, 48), 5.0))


def test_resize_interpolates_between_pixel_centres() -> None:
    geometry = ImageGeometry((1, 4), (1, 2), (0, 0), (1, 2), (1, 2))
    picture = resize_to_picture(torch.tensor([[[0.0, 1.0]]]), geometry)
    torch.testing.assert_close(picture, torch.tensor([[[0.0, 0.25, 0.75, 1.0]]]))


def test_background_logit_is_each_phrases_minimum_and_at_most_minus_one() -> None:
    logits = torch.tensor([[[3.0, 2.0]], [[-7.0, 2.0]]])
    assert background_logit(logits).tolist() == [-1.0, -7.0]


lengths = st.integers(1, 60)


@settings(max_examples=200, deadline=None)
@given(
    picture=st.tuples(lengths, lengths),
    resized=st.tuples(lengths, lengths),
    canvas=st.tuples(lengths, lengths),
    share=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    size=st.tuples(lengths, lengths),
)
def test_any_geometry_gives_logits_of_the_whole_picture(
    picture: tuple[int, int],
    resized: tuple[int, int],
    canvas: tuple[int, int],
    share: tuple[float, float],
    size: tuple[int, int],
) -> None:
    top, left = (round(share[axis] * (canvas[axis] - resized[axis])) for axis in (0, 1))
    geometry = ImageGeometry(picture, resized, (top, left), canvas, (1, 1))
    cropped = crop_to_picture(torch.ones(1, *size), geometry)
    assert cropped.numel() > 0
    placed = place_on_picture(cropped, geometry, picture, torch.tensor([-2.0]))
    assert placed.shape == (1, *picture)
    assert set(placed.round(decimals=4).flatten().tolist()) <= {-2.0, 1.0}
    assert placed.amax() > 0


@given(st.integers(0, 2**12 - 1))
def test_mask_box_agrees_with_numpy(bits: int) -> None:
    mask = torch.tensor([bool(bits >> index & 1) for index in range(12)]).view(3, 4)
    rows, columns = np.nonzero(mask.numpy())
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None
    assert mask_box(mask) == expected


def test_boxes_of_several_masks() -> None:
    masks = torch.zeros(2, 5, 6, dtype=torch.bool)
    masks[1, 1:4, 2] = True
    assert mask_boxes(masks).tolist() == [[0, 0, 0, 0], [2, 1, 3, 4]]


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="canvas"):
        ImageGeometry((1, 1), (1, 1), (0, 0), (0, 1), (1, 1))
