"""Attend-and-segment: its maps against plain loops, and how it prompts SAM."""

import pytest
import torch
from contract_helpers import noise_picture
from tiny_head import CROPPED, PADDED, SQUARE, random_picture
from traced_texts import build_spy_segmenter, trace_text_with_phrases

from flmm.lmm.families.llava import LlavaAdapter
from flmm.training_free.baselines.attend_and_segment import AttendAndSegment
from flmm.types import ImageGeometry

TEXT = "the cat and the dog"


@pytest.fixture(scope="module")
def adapter() -> LlavaAdapter:
    return LlavaAdapter.build_tiny()


def test_maps_are_the_phrases_mean_minus_the_texts(adapter: LlavaAdapter) -> None:
    text = trace_text_with_phrases(adapter, noise_picture(), TEXT, ["the cat", "dog"])
    (maps,) = AttendAndSegment().compute_maps(adapter, [text])
    layers, heads, tokens, height, width = text.trace.attention.shape
    for span, phrase_map in zip(text.spans, maps, strict=True):
        for row in range(height):
            for column in range(width):
                values = [
                    sum(
                        float(text.trace.attention[layer, head, token, row, column])
                        for layer in range(layers)
                        for head in range(heads)
                    )
                    / (layers * heads)
                    for token in range(tokens)
                ]
                own = sum(values[token] for token in span.tokens) / len(span.tokens)
                expected = own - sum(values) / tokens
                assert float(phrase_map[row, column]) == pytest.approx(expected, abs=1e-6)


def test_a_phrase_that_is_the_whole_text_keeps_its_mean_map(adapter: LlavaAdapter) -> None:
    text = trace_text_with_phrases(adapter, noise_picture(), TEXT, [TEXT])
    (maps,) = AttendAndSegment().compute_maps(adapter, [text])
    torch.testing.assert_close(maps[0], text.trace.attention.mean(dim=(0, 1, 2)))


@pytest.mark.parametrize("geometry", [SQUARE, PADDED, CROPPED], ids=["square", "padded", "cropped"])
def test_sam_gets_a_point_at_the_maximum_and_gives_its_last_mask(geometry: ImageGeometry) -> None:
    segmenter = build_spy_segmenter()
    height, width = geometry.picture
    embeddings = segmenter.encode(random_picture(height, width))
    maps = torch.full((2, *geometry.grid), -1.0)
    maps[0, 2, 3] = maps[1, 3, 1] = -0.5
    logits = AttendAndSegment().segment_maps(maps, geometry, segmenter, embeddings)
    points, labels = segmenter.prompts.points, segmenter.prompts.point_labels
    assert points is not None
    assert labels is not None
    assert labels.tolist() == [[1], [1]]
    for (x, y), (row, column) in zip(points[:, 0].tolist(), [(2, 3), (3, 1)], strict=True):
        for place, cell, axis in ((y, row, 0), (x, column, 1)):
            shown = place * geometry.resized[axis] / geometry.picture[axis] + geometry.offset[axis]
            assert shown * geometry.grid[axis] / geometry.canvas[axis] == pytest.approx(
                cell + 0.5, abs=0.3
            )
    assert segmenter.multimask
    last = segmenter.upsample_to_picture(segmenter.masks.logits[:, -1], geometry.picture)
    assert torch.equal(logits, last)
    assert not torch.equal(logits[0], logits[1])
