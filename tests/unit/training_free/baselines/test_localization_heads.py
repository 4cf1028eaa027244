"""Localization heads: entropy, elbow and choice against plain loops, and the box for SAM."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from contract_helpers import noise_picture
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from tiny_head import CROPPED, PADDED, SQUARE, random_picture
from torch import Tensor
from traced_texts import build_spy_segmenter, trace_text_with_phrases

from flmm.errors import InputError
from flmm.lmm.families.llava import LlavaAdapter
from flmm.training_free.baselines.localization_heads import (
    LocalizationHeadChoice,
    LocalizationHeads,
    choose_heads,
    compute_spatial_entropy,
    find_elbow,
)
from flmm.types import ImageGeometry


@pytest.fixture(scope="module")
def adapter() -> LlavaAdapter:
    return LlavaAdapter.build_tiny()


def slow_entropy(attention: NDArray[np.float32]) -> float:
    """Flood-fill from each lit cell in turn."""
    height, width = attention.shape
    left = {
        (row, column)
        for row in range(height)
        for column in range(width)
        if attention[row, column] > attention.mean()
    }
    if not left or all((height - 1, column) in left for column in range(width)):
        return math.inf
    total = len(left)
    entropy = 0.0
    while left:
        region = [left.pop()]
        for row, column in region:
            for near in [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    region.append(near)
        entropy -= len(region) / total * math.log(len(region) / total)
    return entropy


@given(arrays(np.float32, (5, 6), elements=st.sampled_from([0.0, 0.25, 1.0])))
@settings(deadline=None)
def test_entropy_equals_a_flood_fills(attention: NDArray[np.float32]) -> None:
    assert compute_spatial_entropy(attention) == pytest.approx(slow_entropy(attention), abs=1e-9)


def test_cells_that_share_a_corner_are_one_region() -> None:
    diagonal = np.zeros((4, 4), np.float32)
    diagonal[0, 0] = diagonal[1, 1] = 1
    assert compute_spatial_entropy(diagonal) == 0
    apart = np.zeros((4, 4), np.float32)
    apart[0, 0] = apart[0, 3] = 1
    assert compute_spatial_entropy(apart) == pytest.approx(math.log(2))


def test_a_lit_bottom_row_and_a_constant_map_are_out() -> None:
    bottom = np.zeros((4, 4), np.float32)
    bottom[-1] = 1
    assert compute_spatial_entropy(bottom) == math.inf
    assert compute_spatial_entropy(np.ones((4, 4), np.float32)) == math.inf


@given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=12))
def test_no_point_is_farther_from_the_chord_than_the_elbow(values: list[float]) -> None:
    ordered = sorted(values)
    last = len(ordered) - 1
    rise = ordered[-1] - ordered[0]

    def distance(index: int) -> float:
        return abs(rise * index - last * (ordered[index] - ordered[0])) / math.hypot(last, rise)

    elbow = find_elbow(torch.tensor(values))
    farthest = max(map(distance, range(len(ordered))))
    at_elbow = max(distance(index) for index in range(len(ordered)) if ordered[index] == elbow)
    assert at_elbow == pytest.approx(farthest, abs=1e-5)


def slow_choice(sums: Tensor, entropies: Tensor, num_heads: int) -> tuple[tuple[int, int], ...]:
    means = [sum(column) / len(column) for column in sums.T.tolist()]
    elbow = find_elbow(torch.tensor(means))
    counts: Counter[tuple[int, int]] = Counter()
    for sample in entropies.tolist():
        kept = [
            (entropy, index)
            for index, entropy in enumerate(sample)
            if means[index] >= elbow and index // num_heads >= 2 and math.isfinite(entropy)
        ]
        counts.update(divmod(index, num_heads) for _, index in sorted(kept)[:10])

    def rank(head: tuple[int, int]) -> tuple[int, float]:
        column = entropies[:, head[0] * num_heads + head[1]]
        return -counts[head], float(column[column.isfinite()].mean())

    return tuple(sorted(counts, key=rank)[:3])


def test_the_heads_most_often_of_lowest_entropy_are_chosen() -> None:
    generator = torch.Generator().manual_seed(0)
    tendency = torch.rand(1, 48, generator=generator)
    sums = torch.rand(40, 48, generator=generator) + (torch.arange(48) > 20)
    entropies = tendency + 0.2 * torch.rand(40, 48, generator=generator)
    entropies[3, 5] = torch.inf
    choice = choose_heads(sums, entropies, num_layers=6, num_heads=8)
    assert choice.heads == slow_choice(sums, entropies, 8)
    assert choice.num_samples == 40
    assert all(0 < share <= 1 for share in choice.frequencies)
    assert list(choice.frequencies) == sorted(choice.frequencies, reverse=True)


def test_the_first_two_layers_of_each_view_are_left_out() -> None:
    sums = torch.ones(2, 12)
    entropies = torch.arange(12.0).expand(2, -1)
    heads = choose_heads(sums, entropies, num_layers=3, num_heads=2).heads
    assert heads == ((2, 0), (2, 1), (5, 0))


def test_an_lmm_of_two_layers_has_no_localization_heads() -> None:
    with pytest.raises(InputError, match="none of the LMM's 2 layers has localization heads"):
        choose_heads(torch.ones(1, 4), torch.zeros(1, 4), num_layers=2, num_heads=2)


def test_without_a_phrase_nothing_can_be_chosen(adapter: LlavaAdapter) -> None:
    text = trace_text_with_phrases(adapter, noise_picture(), "the cat", [])
    with pytest.raises(InputError, match="no phrase was given"):
        LocalizationHeads.fit(adapter, [text])
    (maps,) = LocalizationHeads().compute_maps(adapter, [text])
    assert maps.shape == (0, *text.geometry.grid)


def test_maps_are_the_blurred_sum_of_the_chosen_heads(adapter: LlavaAdapter) -> None:
    text = trace_text_with_phrases(adapter, noise_picture(), "the cat and the dog", ["dog"])
    choice = LocalizationHeadChoice(((1, 2), (0, 3)), (0.5, 0.5), 10)
    (maps,) = LocalizationHeads(choice).compute_maps(adapter, [text])
    attention = text.trace.attention[:, :, list(text.spans[0].tokens)].mean(dim=2)
    expected = gaussian_filter((attention[1, 2] + attention[0, 3]).numpy(), 1, mode="nearest")
    np.testing.assert_allclose(maps[0].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("geometry", "box"),
    [
        # A cell of the square one is 40 / 6 pixels; the padded picture shows rows 1 to 4 of 6,
        # 8 pixels each; of the cropped one, columns 1.5 cells before the grid's are not seen.
        (SQUARE, [40 / 6, 80 / 6, 20, 160 / 6]),
        (PADDED, [8, 8, 24, 24]),
        (CROPPED, [8 + 32 / 6, 64 / 6, 8 + 96 / 6, 128 / 6]),
    ],
    ids=["square", "padded", "cropped"],
)
def test_sam_gets_the_box_of_the_largest_region(geometry: ImageGeometry, box: list[float]) -> None:
    segmenter = build_spy_segmenter()
    embeddings = segmenter.encode(random_picture(*geometry.picture))
    maps = torch.zeros(1, 6, 6)
    maps[0, 2:4, 1:3] = 1
    maps[0, 1, 5] = 5
    logits = LocalizationHeads().segment_maps(maps, geometry, segmenter, embeddings)
    assert segmenter.prompts.points is None
    assert segmenter.prompts.boxes is not None
    assert segmenter.prompts.boxes[0].tolist() == pytest.approx(box, abs=1e-4)
    assert logits.shape == (1, *geometry.picture)


def test_a_constant_maps_box_is_the_whole_picture() -> None:
    segmenter = build_spy_segmenter()
    embeddings = segmenter.encode(random_picture(*PADDED.picture))
    LocalizationHeads().segment_maps(torch.ones(1, 6, 6), PADDED, segmenter, embeddings)
    assert segmenter.prompts.boxes is not None
    assert segmenter.prompts.boxes.tolist() == [[0, 0, 48, 32]]
