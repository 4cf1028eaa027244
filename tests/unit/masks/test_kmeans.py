import pytest
import torch
from torch import Tensor

from flmm.errors import InputError
from flmm.masks.kmeans import compute_kmeans_mask


@pytest.fixture
def region() -> Tensor:
    region = torch.zeros(8, 10, dtype=torch.bool)
    region[2:5, 3:8] = True
    return region


def maps_of(region: Tensor, seed: int = 0) -> Tensor:
    noise = torch.rand(12, *region.shape, generator=torch.Generator().manual_seed(seed))
    return 0.02 * (region + 0.1 * noise)


def test_mask_is_the_attended_region(region: Tensor) -> None:
    mask = compute_kmeans_mask(maps_of(region))
    assert mask.dtype == torch.bool
    assert torch.equal(mask, region)


def test_mask_is_the_cluster_with_more_attention_even_if_larger(region: Tensor) -> None:
    assert torch.equal(compute_kmeans_mask(maps_of(~region)), ~region)


def test_head_with_large_values_has_no_more_weight_than_others(region: Tensor) -> None:
    maps = maps_of(region)
    maps[0] = 0
    maps[0, 0, :] = 50.0
    assert (compute_kmeans_mask(maps) & region).sum() == region.sum()


def test_same_maps_give_the_same_mask() -> None:
    maps = torch.rand(5, 9, 9, generator=torch.Generator().manual_seed(4))
    assert torch.equal(compute_kmeans_mask(maps), compute_kmeans_mask(maps))


def test_uniform_attention_gives_an_empty_mask() -> None:
    assert not compute_kmeans_mask(torch.full((3, 4, 5), 0.2)).any()


@pytest.mark.parametrize("maps", [torch.ones(4, 5), torch.full((2, 4, 5), float("nan"))])
def test_wrong_attention_raises_input_error(maps: Tensor) -> None:
    with pytest.raises(InputError, match="finite"):
        compute_kmeans_mask(maps)
