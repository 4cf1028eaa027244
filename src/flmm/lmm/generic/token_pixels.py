"""Which pixel values each image token is made of: the arrangements that LMMs use.

An arrangement is a proposal: ``vision_probe`` tells whether the vision tower agrees.

Letters: ``T`` image tokens of a picture, ``E`` pixel values of a token, ``K`` canvases (tiles and
thumbnails, or 1), ``C`` colours, ``H W`` canvas, ``m`` patches of a token's side.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flmm.lmm.generic.pixel_sources import COLOURS, PixelSources
from flmm.types import Size


@dataclass(frozen=True, eq=False)
class TokenPixels:
    """The pixel values that a picture's image tokens are made of."""

    indices: Tensor
    """(T, E) int64: into the flattened pixel values."""
    canvases: tuple[Tensor, ...]
    """(h, w) int64 each: the tokens of a canvas as they lie in it."""


def lies_in_one_canvas(sources: PixelSources, indices: Tensor) -> bool:
    """Tell whether all of these flattened pixel values are of one canvas, which may be a tile."""
    if not sources.have_canvases:
        return False
    canvases, _, _ = locate_values(tuple(sources.x.shape), indices)
    return bool((canvases == canvases.flatten()[0]).all())


def locate_values(shape: tuple[int, ...], indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the canvas, row and column of flattened pixel values that ``have_canvases``."""
    height, width = shape[-2:] if shape[-3] == COLOURS else shape[-3:-1]
    canvas, place = indices // math.prod(shape[-3:]), indices % math.prod(shape[-3:])
    place = place % (height * width) if shape[-3] == COLOURS else place // COLOURS
    return canvas, place // width, place % width


def _group_patches(
    shape: tuple[int, ...], tokens: int, sources: PixelSources
) -> TokenPixels | None:
    """Take the same number of consecutive patches for each token."""
    indices = _patch_indices(shape, tokens, sources)
    if indices is None:
        return None
    indices = indices.reshape(tokens, -1)
    columns = _count_columns(sources, indices)
    if tokens % columns:
        return None
    return TokenPixels(indices, _number_row_by_row(tokens, (tokens // columns, columns)))


def _block_patches(
    shape: tuple[int, ...], tokens: int, sources: PixelSources
) -> TokenPixels | None:
    """Take m·m neighbouring patches for each token, of patches that come row by row."""
    indices = _patch_indices(shape, tokens, sources)
    if indices is None:
        return None
    side = math.isqrt(len(indices) // tokens)
    columns = _count_columns(sources, indices)
    rows = len(indices) // columns
    if side * side * tokens != len(indices) or columns % side or rows % side:
        return None
    grid = (rows // side, columns // side)
    blocks = indices.reshape(grid[0], side, grid[1], side, -1).transpose(1, 2)
    return TokenPixels(blocks.reshape(tokens, -1), _number_row_by_row(tokens, grid))


def _block_canvases(
    shape: tuple[int, ...], tokens: int, sources: PixelSources
) -> TokenPixels | None:
    """Divide each canvas evenly into tokens."""
    del sources
    if len(shape) < 3 or COLOURS not in (shape[-3], shape[-1]):
        return None
    canvases = torch.arange(math.prod(shape)).reshape(-1, *shape[-3:])
    if shape[-3] != COLOURS:
        canvases = canvases.permute(0, 3, 1, 2)
    number, _, height, width = canvases.shape
    in_canvas = tokens // number
    rows = round(math.sqrt(in_canvas * height / width))
    if in_canvas * number != tokens or rows < 1 or in_canvas % rows:
        return None
    columns = in_canvas // rows
    if height % rows or width % columns:
        return None
    cells = canvases.reshape(number, -1, rows, height // rows, columns, width // columns)
    indices = cells.permute(0, 2, 4, 1, 3, 5).reshape(tokens, -1)
    return TokenPixels(indices, _number_row_by_row(tokens, (rows, columns)))


def _number_row_by_row(tokens: int, grid: Size) -> tuple[Tensor, ...]:
    """Return the tokens of canvases of one grid, whose tokens come in turn."""
    return torch.arange(tokens).reshape(-1, *grid).unbind()


def _patch_indices(shape: tuple[int, ...], tokens: int, sources: PixelSources) -> Tensor | None:
    """Return (patches, values) indices, of a multiple of T patches; None if there are none."""
    number = math.prod(shape[:-1]) if len(shape) <= 3 else shape[0]
    indices = torch.arange(math.prod(shape)).reshape(number, -1)
    if number % tokens:
        # A list that is longer than the picture's patches ends in padding.
        shown = ~sources.x.flatten()[indices].isnan().all(dim=1)
        indices = indices[: int(shown.nonzero()[-1]) + 1]
    return indices if len(indices) and len(indices) % tokens == 0 else None


def _count_columns(sources: PixelSources, indices: Tensor) -> int:
    """Return how many (rows of ``indices``) lie in the first row of the picture."""
    places = sources.x.flatten()[indices].nanmean(dim=1)
    # Padding is at no place; the next row begins where a place is not right of all before it.
    farthest = places.nan_to_num(-torch.inf).cummax(dim=0).values
    falls = (places[1:] <= farthest[:-1]).nonzero()
    if len(falls):
        return int(falls[0]) + 1
    # One row, perhaps with rows of padding below it.
    shown = int((~places.isnan()).sum())
    return shown if shown and len(places) % shown == 0 else len(places)


Arrange = Callable[[tuple[int, ...], int, PixelSources], TokenPixels | None]
"""From the shape of the pixel values, T and their sources; None if they cannot be so arranged."""

ARRANGEMENTS: Mapping[str, Arrange] = {
    "consecutive patches": _group_patches,
    "blocks of patches": _block_patches,
    "blocks of canvases": _block_canvases,
}
"""The arrangements that LMMs are known to use."""
