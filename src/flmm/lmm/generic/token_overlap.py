"""Image tokens of vision towers whose convolutions let neighbouring tokens see the same pixels.

There no pixel belongs to one token alone. A token's place is where its receptive field is centred,
which strided convolutions shift against an even division of the canvas; pixels there change it more
than they change its neighbours.

Letters: ``F`` image features of a picture, ``T`` image tokens that show the picture, ``h w`` tokens
of a canvas, ``E`` pixel values of a token, ``V`` pixel values.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from flmm.lmm.generic.pixel_sources import COLOURS, PixelSources
from flmm.lmm.generic.token_pixels import ARRANGEMENTS, TokenPixels, locate_values
from flmm.lmm.generic.vision_probe import draw_pixels
from flmm.types import Size

_WEIGHTINGS = 4
"""Of a token's numbers, whose gradients are squared and added up."""
_LARGEST_SPREAD = 1.0
"""Standard deviation of a receptive field along an axis, in cells."""
_TOLERANCE = 0.25
"""In cells; receptive fields of one network are equally far from the centres of their cells."""
_APART = 3
"""Tokens that far from each other in the grid change together, each with neighbours of its own."""
_SIDE = 3
_AROUND = _SIDE**2
_ROUNDS = 8
"""Small tokens of few pixel values need several."""
_LARGER, _AT_LEAST = 0.95, 0.5
"""Of tokens, those that change more than their neighbours; and how much of that the others must.

A token beside its place changes about 0.4 times as much as the one that is there.
"""


def place_overlapping_tokens(
    encode: Callable[[Tensor], Tensor],
    pixels: Tensor,
    shows_picture: Tensor,
    sources: PixelSources,
) -> TokenPixels | None:
    """Divide each canvas evenly, and move all cells to where receptive fields are centred.

    Args:
        encode: from pixel values to (F, width) features, without attention.
        pixels: of the right shape; their values do not matter.
        shows_picture: (F,) bool with T true.
        sources: of the pixel values.

    Returns:
        None if there are no canvases, they cannot be divided, or receptive fields are not centred
        in one part of their cells. Cells that a canvas cuts off repeat pixel values of its edge.
    """
    shape, tokens = tuple(pixels.shape), int(shows_picture.sum())
    if not sources.have_canvases:
        return None
    even = ARRANGEMENTS["blocks of canvases"](shape, tokens, sources)
    if even is None:
        return None
    shift = _measure_shift(encode, pixels, shows_picture, even)
    if shift is None:
        return None
    _, *lines = locate_values(shape, even.indices)
    sizes, strides = (shape[-2:], (shape[-1], 1))
    if shape[-3] != COLOURS:
        sizes, strides = (shape[-3:-1], (shape[-2] * COLOURS, COLOURS))
    indices = even.indices.clone()
    for line, moved, size, stride in zip(lines, shift, sizes, strides, strict=True):
        indices += ((line + moved).clamp(0, size - 1) - line) * stride
    return TokenPixels(indices, even.canvases)


def _measure_shift(
    encode: Callable[[Tensor], Tensor], pixels: Tensor, shows_picture: Tensor, even: TokenPixels
) -> Size | None:
    """Return how many pixels receptive fields are centred below and right of the even cells."""
    grid = even.canvases[0]
    # Canvases cut off the receptive fields at their edges.
    inner = [sorted({length // 3, length - 1 - length // 3}) for length in grid.shape]
    chosen = grid[inner[0]][:, inner[1]].flatten()
    cells = locate_values(tuple(pixels.shape), even.indices[chosen])
    influences = _measure_influences(encode, pixels, shows_picture, chosen)
    if influences is None:
        return None
    canvases, *lines = locate_values(tuple(pixels.shape), torch.arange(pixels.numel()))
    if influences[canvases != cells[0][:, :1]].any():
        return None
    shift = []
    for line, cell in zip(lines, cells[1:], strict=True):
        first, last = cell.aminmax(dim=1)
        length = float(last[0] - first[0] + 1)
        centre = (influences * line).sum(dim=1)
        spread = (influences * (line - centre[:, None]) ** 2).sum(dim=1).sqrt()
        moved = centre - (first + last) / 2
        if (
            spread.max() > _LARGEST_SPREAD * length
            or (moved - moved.mean()).abs().max() > _TOLERANCE * length
            or moved.mean().abs() > length / 2
        ):
            return None
        shift.append(round(float(moved.mean())))
    return shift[0], shift[1]


def _measure_influences(
    encode: Callable[[Tensor], Tensor], pixels: Tensor, shows_picture: Tensor, chosen: Tensor
) -> Tensor | None:
    """Return (chosen, V) float64, each pixel value's share in squared gradients of a token."""
    with torch.enable_grad():
        values = draw_pixels(pixels)[0].requires_grad_()
        features = encode(values)[shows_picture][chosen].float()
        if not features.requires_grad:
            return None
        generator = torch.Generator().manual_seed(2)
        influences = torch.zeros(len(chosen), values.numel(), dtype=torch.float64)
        for _ in range(_WEIGHTINGS):
            scores = (features * torch.randn(features.shape, generator=generator)).sum(dim=1)
            for influence, score in zip(influences, scores, strict=True):
                (gradient,) = torch.autograd.grad(score, values, retain_graph=True)
                influence += gradient.flatten().double() ** 2
    total = influences.sum(dim=1, keepdim=True)
    return influences / total if bool((total > 0).all()) else None


def agrees_where_tokens_overlap(
    encode: Callable[[Tensor], Tensor],
    pixels: Tensor,
    shows_picture: Tensor,
    token_pixels: TokenPixels,
) -> bool:
    """Tell whether each token changes more than its neighbours if its own pixel values change.

    Changes are compared as shares of what a token changes with all pixel values: those at the edges
    of a canvas see fewer. They are added up over random pixel values until the tokens agree.

    Args:
        encode: from pixel values to (F, width) features, without attention.
        pixels: of the right shape; their values do not matter.
        shows_picture: (F,) bool with T true, from ``find_picture_features``.
        token_pixels: what is proposed.
    """
    generator = torch.Generator().manual_seed(1)
    tokens = len(token_pixels.indices)
    changes = torch.zeros(tokens, _AROUND)
    for _ in range(_ROUNDS):
        before, after = torch.rand((2, *pixels.shape), generator=generator) * 4 - 2
        features = encode(before).float()
        whole = (encode(after).float() - features).square().sum(dim=1)
        for changed in _choose_apart(token_pixels.canvases, tokens, generator):
            mixed = before.flatten().clone()
            places = token_pixels.indices[changed].flatten()
            mixed[places] = after.flatten()[places]
            change = (encode(mixed.reshape(pixels.shape)).float() - features).square().sum(dim=1)
            if change[~shows_picture].any():
                return False
            shares = (change / whole)[shows_picture]
            around = _list_around(shares, token_pixels.canvases)
            is_near = (_list_around(changed.float(), token_pixels.canvases) > 0).any(dim=1)
            if not is_near.all() and shares[~is_near].max() >= shares[changed].min():
                return False
            changes[changed] += around[changed]
        own = changes[:, _AROUND // 2]
        others = changes.clone()
        others[:, _AROUND // 2] = 0
        ratio = own / others.amax(dim=1)
        if (ratio > 1).float().mean() >= _LARGER and ratio.min() >= _AT_LEAST:
            return True
    return False


def _choose_apart(
    canvases: tuple[Tensor, ...], tokens: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield (T,) bool, tokens without a common neighbour; each token is in one of these sets."""
    group = torch.empty(tokens, dtype=torch.int64)
    for grid in canvases:
        rows, columns = (torch.arange(length) % _APART for length in grid.shape)
        group[grid] = rows[:, None] * _APART + columns
    # A random half each: tokens of one group that are mixed up are noticed, too.
    half = torch.rand(tokens, generator=generator) < 0.5
    for number in range(_APART**2):
        for chosen in ((group == number) & half, (group == number) & ~half):
            if chosen.any():
                yield chosen


def _list_around(values: Tensor, canvases: tuple[Tensor, ...]) -> Tensor:
    """Return (T, 9) of (T,) values, those of the tokens around each with its own in the middle."""
    around = torch.empty(len(values), _AROUND)
    for grid in canvases:
        windows = functional.unfold(values[grid][None, None], _SIDE, padding=_SIDE // 2)
        around[grid.flatten()] = windows[0].T
    return around
