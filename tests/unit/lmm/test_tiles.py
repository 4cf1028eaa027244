"""Views of tiled pictures, and resampling one view's maps to another's grid."""

import pytest
import torch
from torch.nn import functional

from flmm.errors import InputError
from flmm.lmm.tiles import (
    any_resolution_views,
    stretched_geometry,
    tiled_token_positions,
    tiled_views,
)
from flmm.pictures.geometry import resample_to_grid
from flmm.types import ImageGeometry, Size


def test_tiles_are_numbered_one_after_the_other() -> None:
    assert tiled_token_positions(1, 2, 2, 10).tolist() == [[10, 11, 14, 15], [12, 13, 16, 17]]
    assert tiled_token_positions(2, 1, 2).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_one_tile_is_both_views() -> None:
    coarse, fine = tiled_views((10, 10), 16, 4, 1, 1, coarse_first=False)
    assert coarse is fine
    assert coarse.token_positions.flatten().tolist() == list(range(16))


def test_coarse_view_stands_before_or_after_the_tiles() -> None:
    before, tiles_after = tiled_views((10, 20), 16, 2, 1, 2, coarse_first=True)
    assert before.token_positions.tolist() == [[0, 1], [2, 3]]
    assert tiles_after.token_positions.tolist() == [[4, 5, 8, 9], [6, 7, 10, 11]]
    after, tiles_before = tiled_views((10, 20), 16, 2, 1, 2, coarse_first=False)
    assert after.token_positions.tolist() == [[8, 9], [10, 11]]
    assert tiles_before.token_positions.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_padding_rows_are_left_out_and_newlines_skipped() -> None:
    # A picture twice as broad as high on 2 × 2 tiles of 4 × 4 cells: a quarter is padding above,
    # a quarter below.
    coarse, fine = any_resolution_views((50, 100), [[16, 16]], 8, 4, None)
    assert coarse.geometry.grid == (4, 4)
    assert fine.geometry == ImageGeometry((50, 100), (8, 16), (0, 0), (8, 16), (4, 8))
    assert fine.token_positions[0].tolist() == list(range(16, 24))
    assert fine.token_positions[1].tolist() == list(range(25, 33)), (
        "a newline stands between the rows"
    )


def test_too_many_cells_are_resized_to_fewer() -> None:
    _, fine = any_resolution_views((64, 64), [[32, 32]], 8, 4, 4)
    assert fine.geometry.grid == (8, 8)
    assert fine.geometry.canvas == (32, 32)


def test_picture_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(InputError, match="too narrow"):
        any_resolution_views((1, 4000), [[16, 16]], 8, 4, None)


def test_maps_of_a_whole_view_are_resampled_as_torch_does() -> None:
    maps = torch.rand(3, 2, 5, 4, 4)
    coarse = stretched_geometry((30, 50), (16, 16), (4, 4))
    fine = stretched_geometry((30, 50), (32, 48), (8, 12))
    expected = functional.interpolate(maps.flatten(0, 1), (8, 12), mode="bilinear")
    resampled = resample_to_grid(maps, coarse, fine)
    torch.testing.assert_close(resampled, expected.reshape(3, 2, 5, 8, 12))


@pytest.mark.parametrize(
    ("picture", "grid", "most_cells"),
    [
        ((480, 640), (36, 48), 1e-5),
        # Half a pixel of the picture lies outside the cells that LLaVA-NeXT keeps.
        ((427, 640), (32, 48), 0.06),
        # It keeps half a row of padding above and below.
        ((200, 640), (16, 48), 0.7),
    ],
)
def test_coarse_maps_of_llava_next_are_enlarged_to_the_fine_grid(
    picture: Size, grid: Size, most_cells: float
) -> None:
    resolutions = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    coarse, fine = any_resolution_views(picture, resolutions, 336, 24, None)
    assert fine.geometry.grid == grid
    positions = torch.stack(torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij"))
    enlarged = functional.interpolate(positions[None], grid, mode="bilinear")[0]
    resampled = resample_to_grid(positions, coarse.geometry, fine.geometry)
    assert (resampled - enlarged).abs().max() < most_cells


def test_maps_are_resampled_to_where_the_picture_lies() -> None:
    # The picture is in the source's middle rows, and on the whole canvas of the target.
    source = ImageGeometry((10, 20), (10, 20), (5, 0), (20, 20), (4, 4))
    target = stretched_geometry((10, 20), (10, 20), (2, 4))
    maps = torch.arange(16.0).reshape(1, 4, 4)
    torch.testing.assert_close(resample_to_grid(maps, source, target), maps[:, 1:3])
    assert resample_to_grid(maps, source, source) is maps
