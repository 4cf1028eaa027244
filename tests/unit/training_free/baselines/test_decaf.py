"""DecAF: its rollout against transformers' own attention matrices, its points and kept masks."""

import numpy as np
import pytest
import torch
from contract_helpers import eager_reference, noise_picture
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from tiny_head import CROPPED, PADDED, SQUARE, random_picture
from traced_texts import build_spy_segmenter, trace_text_with_phrases

from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.prompt import Prompt
from flmm.pictures.geometry import resize_maps_to_picture
from flmm.training_free.baselines.decaf import DecAF, find_points
from flmm.types import ImageGeometry


@pytest.fixture(scope="module")
def adapter() -> LlavaAdapter:
    return LlavaAdapter.build_tiny(grouped_queries=True)


def slow_rollout(adapter: LlavaAdapter, prompt: Prompt) -> NDArray[np.float64]:
    """Multiply whole matrices; (tokens of the answer, image tokens)."""
    attention, _ = eager_reference(adapter, prompt, 0, prompt.length)
    matrices = attention.double().numpy()
    assert prompt.answer_offsets is not None
    rows = list(range(prompt.answer_start, prompt.answer_start + len(prompt.answer_offsets)))
    columns = prompt.picture_views[0][-1].token_positions.flatten().tolist()
    rollout = np.eye(prompt.length)
    for layer in range(len(matrices) // 2, len(matrices)):
        weights = [head[np.ix_(rows, columns)].max() for head in matrices[layer]]
        mean = sum(w * head for w, head in zip(weights, matrices[layer], strict=True))
        rollout = (0.5 * mean / sum(weights) + 0.5 * np.eye(prompt.length)) @ rollout
    return rollout[np.ix_(rows, columns)]


def test_maps_are_the_rollout_minus_the_backgrounds(adapter: LlavaAdapter) -> None:
    picture = noise_picture()
    text = trace_text_with_phrases(adapter, picture, "the cat and the dog", ["the cat", "dog"])
    other = trace_text_with_phrases(adapter, picture, "x", [])
    maps, none = DecAF().compute_maps(adapter, [text, other])
    assert none.shape == (0, *text.geometry.grid)
    background = adapter.build_prompt(picture, "Where is the background?", "The background")
    subtracted = slow_rollout(adapter, background).mean(axis=0)
    rows = slow_rollout(adapter, text.prompt)
    for span, phrase_map in zip(text.spans, maps, strict=True):
        contrast = (rows[list(span.tokens)].mean(axis=0) - subtracted).clip(min=0)
        assert contrast.any()
        expected = gaussian_filter(contrast.reshape(text.geometry.grid), 1, mode="nearest")
        np.testing.assert_allclose(phrase_map.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        (SQUARE, [(10, 10), (50 / 3, 50 / 3)]),
        (PADDED, [(12, 4), (20, 12)]),
        (CROPPED, [(16, 8), (64 / 3, 40 / 3)]),
    ],
    ids=["square", "padded", "cropped"],
)
def test_points_are_the_cells_near_the_maximum(
    geometry: ImageGeometry, expected: list[tuple[float, float]]
) -> None:
    attention = torch.zeros(6, 6)
    attention[1, 1], attention[2, 2], attention[3, 3] = 1.0, 0.81, 0.79
    if geometry is PADDED:
        attention[0, 0] = 9  # shows padding only
    points = find_points(attention, geometry)
    np.testing.assert_allclose(sorted(points.tolist()), expected, atol=1e-4)


def test_all_cells_of_a_constant_map_are_points() -> None:
    assert len(find_points(torch.zeros(6, 6), SQUARE)) == 36


@torch.no_grad()
def test_the_good_masks_of_all_points_are_joined() -> None:
    segmenter = build_spy_segmenter()
    embeddings = segmenter.encode(random_picture(*SQUARE.picture))
    attention = torch.zeros(6, 6)
    attention[1, 1] = attention[4, 4] = attention[2, 4] = 1
    attention += 0.1 * torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    logits = DecAF().segment_maps(attention[None], SQUARE, segmenter, embeddings)
    assert segmenter.multimask
    masks = segmenter.masks
    assert len(masks.scores) == 3
    weights = resize_maps_to_picture(attention[None], SQUARE, (32, 32))[0]
    best = []
    for point in range(3):
        choice = int(masks.scores[point].argmax())
        inside = masks.logits[point, choice] > 0
        share = float(weights[inside].sum() / weights.sum())
        best.append((float(masks.scores[point, choice]) * share, masks.logits[point, choice]))
    good = [mask for quality, mask in best if quality >= 0.7]
    kept = good or [max(best, key=lambda pair: pair[0])[1]]
    expected = segmenter.upsample_to_picture(torch.stack(kept).amax(dim=0)[None], SQUARE.picture)
    torch.testing.assert_close(logits, expected)
