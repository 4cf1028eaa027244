"""Reading the order of image tokens from the vision tower, for arrangements that nobody foresaw.

Where the gradient of each image feature reaches, there are the pixel values that it is made of. A
few backward passes tell all features apart: in each, a bit of every token's number is the sign of
its gradient. Attention is left out meanwhile, as in ``vision_probe``.

Letters: ``F`` image features of a picture, ``T`` image tokens that show the picture, ``E`` pixel
values of a token, ``V`` pixel values.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from flmm.lmm.generic.pixel_sources import PixelSources
from flmm.lmm.generic.token_pixels import TokenPixels, locate_values
from flmm.lmm.generic.vision_probe import draw_pixels

_PRECISION = 0.01
"""Of gradients; where those of two tokens meet, signs change more than that."""


def read_token_pixels(
    encode: Callable[[Tensor], Tensor],
    pixels: Tensor,
    shows_picture: Tensor,
    sources: PixelSources,
) -> TokenPixels | None:
    """Read which pixel values the image tokens are made of, and how they lie in each canvas.

    Args:
        encode: from pixel values to (F, width) features, without attention.
        pixels: of the right shape; their values do not matter.
        shows_picture: (F,) bool with T true.
        sources: of the pixel values.

    Returns:
        None if some tokens have none of their own, or those of a canvas do not fill a grid.
    """
    owners = _read_owners(encode, pixels, shows_picture)
    if owners is None:
        return None
    places = (owners >= 0).nonzero()[:, 0]
    places = places[owners[places].argsort(stable=True)]
    counts = owners[places].bincount(minlength=int(shows_picture.sum()))
    if (counts == 0).any():
        return None
    # Tokens with fewer pixel values than others repeat theirs.
    steps = torch.arange(int(counts.max())) % counts[:, None]
    indices = places[(counts.cumsum(0) - counts)[:, None] + steps]
    canvases = _arrange(tuple(pixels.shape), indices, sources)
    return None if canvases is None else TokenPixels(indices, canvases)


def _read_owners(
    encode: Callable[[Tensor], Tensor], pixels: Tensor, shows_picture: Tensor
) -> Tensor | None:
    """Return (V,) int64, the token that each pixel value belongs to, or -1."""
    with torch.enable_grad():
        values = draw_pixels(pixels)[0].requires_grad_()
        features = encode(values)[shows_picture].float()
        if not features.requires_grad:
            return None
        # Norms would leave no gradient of a sum with equal weights.
        generator = torch.Generator().manual_seed(2)
        scores = (features * torch.randn(features.shape, generator=generator)).sum(dim=1)

        def differentiate(signs: Tensor) -> Tensor:
            (gradient,) = torch.autograd.grad(scores, values, signs, retain_graph=True)
            return gradient.flatten()

        every = differentiate(torch.ones_like(scores))
        owners = torch.zeros(len(every), dtype=torch.int64)
        owned = every != 0
        tokens = torch.arange(len(scores))
        for bit in range(max(len(scores) - 1, 1).bit_length()):
            gradient = differentiate((tokens >> bit & 1) * -2.0 + 1)
            owners += (gradient.sign() != every.sign()).long() << bit
            owned &= (gradient.abs() - every.abs()).abs() <= _PRECISION * every.abs()
    return torch.where(owned & (owners < len(scores)), owners, -1)


def _arrange(
    shape: tuple[int, ...], indices: Tensor, sources: PixelSources
) -> tuple[Tensor, ...] | None:
    """Return the (h, w) tokens of each canvas, or of each list of patches."""
    rows, columns = sources.y.flatten()[indices], sources.x.flatten()[indices]
    if sources.have_canvases:
        grids = _arrange_canvases(*locate_values(shape, indices))
    else:
        # A list of patches, of which there may be several.
        values = indices.new_tensor(shape[-2:] if len(shape) == 3 else shape).prod()
        grids = _arrange_canvases(indices // values, rows, columns)
    if grids is None or not (sources.have_canvases or _are_of_one_size(rows, columns)):
        # Patches of several canvases in one list, or on one strip.
        canvases = _find_canvases(rows, columns)
        grids = None if canvases is None else _arrange_canvases(canvases, rows, columns)
    return grids


def _arrange_canvases(canvases: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, ...] | None:
    """Return the (h, w) tokens of each canvas, from the (T, E) places of their pixel values."""
    if (canvases != canvases[:, :1]).any():
        return None
    grids = []
    for canvas in sorted(set(canvases[:, 0].tolist())):
        tokens = (canvases[:, 0] == canvas).nonzero()[:, 0]
        row, column = (_rank(places[tokens].float()) for places in (rows, columns))
        grid = torch.full((int(row.max()) + 1, int(column.max()) + 1), -1)
        grid[row, column] = tokens
        if (grid < 0).any() or grid.numel() != len(tokens):
            return None
        grids.append(grid)
    return tuple(grids)


def _are_of_one_size(rows: Tensor, columns: Tensor) -> bool:
    """Tell whether tokens show parts of one size, or less of it at edges: are of one canvas."""
    extents = [_measure_extents(places) for places in (rows, columns)]
    return all(bool(extent.max() < 1.5 * extent.median()) for extent in extents)


def _measure_extents(places: Tensor) -> Tensor:
    """Return (T,): from the first to the last of the (T, E) places that each token shows."""
    least, most = places.nan_to_num(torch.inf), places.nan_to_num(-torch.inf)
    return most.amax(dim=1) - least.amin(dim=1)


def _find_canvases(rows: Tensor, columns: Tensor) -> Tensor | None:
    """Return the (T, E) canvas of each token: rows of one length and start, each below the last.

    None if some token shows padding alone, which is at no place.
    """
    y, x = rows.nanmean(dim=1), columns.nanmean(dim=1)
    if y.isnan().any():
        return None
    height, width = _measure_extents(rows), _measure_extents(columns)
    begins_row = (x.diff(prepend=x[:1]) < 0) | (y.diff(prepend=y[:1]).abs() > height / 2)
    begins_row[0] = True
    starts = begins_row.nonzero()[:, 0]
    lengths = starts.diff(append=starts.new_tensor([len(x)]))
    begins_canvas = torch.zeros_like(begins_row)
    for above, below, length, other in zip(
        starts[:-1], starts[1:], lengths[:-1], lengths[1:], strict=True
    ):
        is_under = (x[below] - x[above]).abs() < width[above] / 2 and y[below] > y[above]
        begins_canvas[below] = not is_under or length != other
    return begins_canvas.long().cumsum(0)[:, None].expand(rows.shape)


def _rank(places: Tensor) -> Tensor:
    """Return the row, or column, of each token from the (tokens, E) places that it shows."""
    centres = places.nanmean(dim=1).nan_to_num(torch.inf)
    extent = _measure_extents(places).median()
    ordered, order = centres.sort()
    ranks = torch.empty_like(order)
    ranks[order] = (ordered.diff(prepend=ordered[:1]) > extent / 2).cumsum(0)
    return ranks
