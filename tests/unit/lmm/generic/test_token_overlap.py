"""Tokens that see pixels of their neighbours lie where their receptive fields are centred."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from flmm.lmm.generic.pixel_sources import PixelSources
from flmm.lmm.generic.token_overlap import agrees_where_tokens_overlap, place_overlapping_tokens
from flmm.lmm.generic.token_pixels import TokenPixels
from flmm.lmm.generic.token_views import build_views

SIDE, PATCH, GRID = 128, 4, 8
PIXELS = torch.zeros(1, 3, SIDE, SIDE)
ALL = torch.ones(GRID * GRID, dtype=torch.bool)


def build_tower() -> Callable[[Tensor], Tensor]:
    """Build patches, and three convolutions of which two halve the grid."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = nn.Sequential(
            nn.Conv2d(3, 32, PATCH, PATCH),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
        )
    return lambda pixels: tower(pixels)[0].flatten(1).T


@pytest.fixture
def tower() -> Callable[[Tensor], Tensor]:
    return build_tower()


@pytest.fixture
def sources() -> PixelSources:
    places = (torch.arange(SIDE) + 0.5) / SIDE
    return PixelSources(places.expand(PIXELS.shape), places[:, None].expand(PIXELS.shape))


@pytest.fixture
def placed(tower: Callable[[Tensor], Tensor], sources: PixelSources) -> TokenPixels:
    found = place_overlapping_tokens(tower, PIXELS, ALL, sources)
    assert found is not None
    return found


def test_cells_are_centred_on_receptive_fields(placed: TokenPixels, sources: PixelSources) -> None:
    views = build_views(sources, placed, (SIDE, SIDE))
    assert views is not None
    (view,) = views
    assert view.token_positions.equal(torch.arange(64).reshape(8, 8))
    geometry = view.geometry
    assert (geometry.canvas, geometry.grid) == ((SIDE, SIDE), (GRID, GRID))
    assert geometry.resized == (SIDE, SIDE)
    # The first token's is centred on the first patch, the cell's centre is 1.5 patches further.
    assert geometry.offset == pytest.approx((1.5 * PATCH, 1.5 * PATCH), abs=1)


def test_the_right_order_agrees(tower: Callable[[Tensor], Tensor], placed: TokenPixels) -> None:
    with torch.no_grad():
        assert agrees_where_tokens_overlap(tower, PIXELS, ALL, placed)


@pytest.mark.parametrize(
    "disorder",
    [
        lambda grid: grid.T,
        lambda grid: grid.roll(1, dims=0),
        lambda grid: grid.roll(-1, dims=1),
        lambda grid: grid.flip(0, 1),
        lambda grid: grid.flip(1),
        # Tokens that could change together.
        lambda grid: grid.roll(3, dims=0),
        lambda grid: grid.flatten()[[1, 0, *range(2, 64)]],
    ],
    ids=["transposed", "row-later", "column-earlier", "reversed", "mirrored", "three-rows", "two"],
)
def test_wrong_orders_are_refused(
    tower: Callable[[Tensor], Tensor], placed: TokenPixels, disorder: Callable[[Tensor], Tensor]
) -> None:
    order = disorder(torch.arange(GRID * GRID).reshape(GRID, GRID)).flatten()
    wrong = TokenPixels(placed.indices[order], placed.canvases)
    with torch.no_grad():
        assert not agrees_where_tokens_overlap(tower, PIXELS, ALL, wrong)


def mix(features: Tensor) -> Tensor:
    """Make each feature of all of them, as resamplers do."""
    return torch.randn(len(features), len(features), generator=torch.Generator()) @ features


@pytest.mark.parametrize(
    "change", [mix, lambda features: features.T.reshape(features.shape)], ids=["mixed", "scrambled"]
)
def test_features_without_a_place_are_refused(
    tower: Callable[[Tensor], Tensor],
    placed: TokenPixels,
    sources: PixelSources,
    change: Callable[[Tensor], Tensor],
) -> None:
    def encode(pixels: Tensor) -> Tensor:
        return change(tower(pixels))

    assert place_overlapping_tokens(encode, PIXELS, ALL, sources) is None
    with torch.no_grad():
        assert not agrees_where_tokens_overlap(encode, PIXELS, ALL, placed)


def test_codes_without_gradients_are_refused(
    tower: Callable[[Tensor], Tensor], sources: PixelSources
) -> None:
    def encode(pixels: Tensor) -> Tensor:
        return (tower(pixels) > 0).float()

    assert place_overlapping_tokens(encode, PIXELS, ALL, sources) is None
