"""Token activation maps against plain loops over transformers' own logits."""

import numpy as np
import pytest
import torch
from contract_helpers import noise_picture
from numpy.typing import NDArray
from traced_texts import trace_text_with_phrases

from flmm.lmm.families.llava import LlavaAdapter
from flmm.training_free.baselines.token_activation_maps import (
    TokenActivationMaps,
    remove_explained_part,
)
from flmm.training_free.traced_text import TracedText


@pytest.fixture(scope="module")
def adapter() -> LlavaAdapter:
    return LlavaAdapter.build_tiny()


def slow_token_maps(adapter: LlavaAdapter, text: TracedText) -> dict[int, NDArray[np.float64]]:
    """Return the map of each token of the text, by its index in the text."""
    prompt = text.prompt
    inputs = adapter.collate([prompt], keep_pixels=True).inputs
    with torch.no_grad():
        logits = adapter.model(**inputs).logits[0].double().numpy()
    token_ids = prompt.inputs["input_ids"][0].tolist()
    image = text.view.token_positions.flatten().tolist()
    question = range(prompt.question_start, prompt.question_start + len(prompt.question_offsets))
    context = [*question, *range(text.start, text.end)]
    token_maps = {}
    for position in range(text.start, text.end):
        token = token_ids[position]
        own = np.maximum(logits[image, token], 0)
        numerator, denominator = np.zeros(len(image)), 0.0
        for earlier in context:
            if earlier < position and token_ids[earlier] != token:
                weight = max(logits[earlier, token], 0)
                numerator += weight * np.maximum(logits[image, token_ids[earlier]], 0)
                denominator += weight
        if denominator and numerator.any():
            explained = numerator / denominator
            scale = np.linalg.lstsq(explained[:, None], own, rcond=None)[0][0]
            own = np.maximum(own - scale * explained, 0)
        token_maps[position - text.start] = own.reshape(text.geometry.grid)
    return token_maps


def test_maps_are_the_logits_that_earlier_tokens_do_not_explain(adapter: LlavaAdapter) -> None:
    text = trace_text_with_phrases(
        adapter, noise_picture(), "the cat and the dog", ["the cat", "the dog"]
    )
    (maps,) = TokenActivationMaps().compute_maps(adapter, [text])
    token_maps = slow_token_maps(adapter, text)
    for span, phrase_map in zip(text.spans, maps, strict=True):
        expected = np.mean([token_maps[token] for token in span.tokens], axis=0)
        assert expected.any()
        np.testing.assert_allclose(phrase_map.numpy(), expected, atol=1e-5)


def test_what_an_earlier_token_activates_too_is_removed() -> None:
    activations = torch.tensor([[1.0, 1.0, 0.0, 0.0], [2.0, 2.0, 0.0, 3.0]])
    relevance = torch.ones(2, 2)
    others = remove_explained_part(activations, relevance, torch.tensor([5, 6]))
    assert others.tolist() == [[1, 1, 0, 0], [0, 0, 0, 3]]
    same = remove_explained_part(activations, relevance, torch.tensor([5, 5]))
    assert torch.equal(same, activations)
