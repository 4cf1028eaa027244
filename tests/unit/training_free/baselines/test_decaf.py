"""DecAF: its rollout against transformers' own attention matrices, its points and kept masks."""

import numpy as np
import pytest
import torch
from contract_helpers import eager_reference, noise_picture
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from tiny_head import CROPPED, PADDED, SQUARE, random_picture
from torch import Tensor
from traced_texts import trace_text_with_phrases

from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.prompt import Prompt
from flmm.segmenters.prompts import PictureEmbeddings, SegmenterMasks, SegmenterPrompts
from flmm.segmenters.sam import SamSegmenter
from flmm.training_free.baselines.decaf import DecAF, find_points
from flmm.types import ImageGeometry, Size


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


class GivenMasks(SamSegmenter):
    """For each of three points it gives a band of rows from the top, and one bad mask."""

    bands: tuple[int, int, int]
    """Rows of the 32 of each point's mask."""
    scores: tuple[float, float, float]

    def decode(
        self,
        embeddings: PictureEmbeddings,
        picture: Size,
        prompts: SegmenterPrompts,
        multimask: bool = False,
        picture_indices: Tensor | None = None,
    ) -> SegmenterMasks:
        del embeddings, picture, picture_indices
        assert multimask
        assert prompts.num_phrases == 3
        logits = torch.full((3, 2, 32, 32), -1.0)
        for point, rows in enumerate(self.bands):
            logits[point, 0, :rows] = 1
        scores = torch.tensor([[score, 0.0] for score in self.scores])
        return SegmenterMasks(logits, scores)


@torch.no_grad()
@pytest.mark.parametrize(
    ("bands", "scores", "rows"),
    [
        ((24, 28, 32), (0.9, 0.9, 0.6), 28),
        ((24, 32, 8), (0.99, 0.72, 0.99), 32),
        ((8, 12, 16), (0.9, 0.9, 0.9), 16),
        ((32, 20, 8), (0.3, 0.69, 0.69), 20),
    ],
    ids=[
        "one good",
        "two good, not the better one alone",
        "none good",
        "score and share both count",
    ],
)
def test_the_good_masks_of_all_points_are_joined(
    bands: tuple[int, int, int], scores: tuple[float, float, float], rows: int
) -> None:
    segmenter = GivenMasks.build_tiny()
    segmenter.bands, segmenter.scores = bands, scores
    attention = torch.ones(6, 6)
    attention[0, 0] = attention[2, 3] = attention[4, 4] = 1.5
    embeddings = segmenter.encode(random_picture(*SQUARE.picture))
    (logits,) = DecAF().segment_maps(attention[None], SQUARE, segmenter, embeddings)
    expected = torch.zeros(SQUARE.picture, dtype=torch.bool)
    expected[: rows * SQUARE.picture[0] // 32] = True
    assert torch.equal(logits > 0, expected)
