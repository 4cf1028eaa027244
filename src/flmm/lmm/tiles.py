"""The views of pictures that are cut into tiles: one of the tiles, one coarse.

Letters: ``s`` cells of a tile in height and width.
"""

import math

import torch
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution

from flmm.errors import InputError
from flmm.lmm.prompt import PictureView
from flmm.types import ImageGeometry, Size


def stretched_geometry(picture: Size, canvas: Size, grid: Size) -> ImageGeometry:
    """Return the geometry of a picture resized to the whole canvas, without its aspect ratio."""
    return ImageGeometry(picture, canvas, (0, 0), canvas, grid)


def tiled_token_positions(rows: int, columns: int, grid_size: int, start: int = 0) -> Tensor:
    """Return (rows·s, columns·s): positions from ``start`` on, tile by tile, row by row in each."""
    positions = torch.arange(rows * columns * grid_size * grid_size) + start
    tiles = positions.reshape(rows, columns, grid_size, grid_size)
    return tiles.permute(0, 2, 1, 3).reshape(rows * grid_size, columns * grid_size)


def tiled_views(
    picture: Size, tile_size: int, grid_size: int, rows: int, columns: int, coarse_first: bool
) -> tuple[PictureView, PictureView]:
    """Return the (coarse, fine) views of a picture resized to ``rows`` × ``columns`` square tiles.

    ``tile_size``: pixels of a tile's side; ``grid_size``: its cells. ``coarse_first``: whether the
    coarse view's tokens come before the tiles'. With a single tile, both views are that tile.
    """
    cells = grid_size * grid_size
    single = rows * columns == 1
    coarse_start = 0 if coarse_first or single else rows * columns * cells
    coarse = PictureView(
        torch.arange(cells).reshape(grid_size, grid_size) + coarse_start,
        stretched_geometry(picture, (tile_size, tile_size), (grid_size, grid_size)),
    )
    if single:
        return coarse, coarse
    fine = PictureView(
        tiled_token_positions(rows, columns, grid_size, cells if coarse_first else 0),
        stretched_geometry(
            picture,
            (rows * tile_size, columns * tile_size),
            (rows * grid_size, columns * grid_size),
        ),
    )
    return coarse, fine


def any_resolution_views(
    picture: Size,
    resolutions: list[list[int]],
    tile_size: int,
    grid_size: int,
    max_tiles: int | None,
) -> tuple[PictureView, PictureView]:
    """Return LLaVA-NeXT's views: stretched to one tile, and padded to the best of ``resolutions``.

    Rows and columns of cells with only padding are left out, and each row ends in a newline token.
    ``max_tiles``: a grid of more cells than about so many tiles have is resized to fewer
    (LLaVA-OneVision's ``anyres_max``); None for no limit.

    Raises:
        InputError: the picture is so narrow that nothing of it is left.
    """
    height, width = select_best_resolution(picture, resolutions)
    scale = min(height / picture[0], width / picture[1])
    resized = (
        min(math.ceil(picture[0] * scale), height),
        min(math.ceil(picture[1] * scale), width),
    )
    offset = ((height - resized[0]) // 2, (width - resized[1]) // 2)
    rows, columns = height // tile_size * grid_size, width // tile_size * grid_size
    if picture[1] / picture[0] > columns / rows:
        visible = int(round(picture[0] * (columns / picture[1]), 7))
        cut = ((rows - visible) // 2, 0)
    else:
        visible = int(round(picture[1] * (rows / picture[0]), 7))
        cut = (0, (columns - visible) // 2)
    grid = (rows - 2 * cut[0], columns - 2 * cut[1])
    if 0 in grid:
        raise InputError(
            f"a picture of {picture[1]}×{picture[0]} pixels is too narrow: the model leaves none of"
            " its image tokens; crop it to a broader part"
        )
    cell = tile_size / grid_size
    canvas = (round(grid[0] * cell), round(grid[1] * cell))
    offset = (round(offset[0] - cut[0] * cell), round(offset[1] - cut[1] * cell))
    if max_tiles is not None:
        ratio = math.sqrt(grid[0] * grid[1] / (max_tiles * grid_size**2))
        if ratio > 1.1:
            grid = (int(grid[0] // ratio), int(grid[1] // ratio))
    with_newlines = torch.arange(grid[0] * (grid[1] + 1)).reshape(grid[0], grid[1] + 1)
    coarse = PictureView(
        torch.arange(grid_size * grid_size).reshape(grid_size, grid_size),
        stretched_geometry(picture, (tile_size, tile_size), (grid_size, grid_size)),
    )
    fine = PictureView(
        with_newlines[:, :-1] + grid_size * grid_size,
        ImageGeometry(picture, resized, offset, canvas, grid),
    )
    return coarse, fine
