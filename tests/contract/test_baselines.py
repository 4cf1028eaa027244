"""Every baseline with every LMM family: masks of a text, and of words of a question."""

import numpy as np
import pytest
import torch
from contract_helpers import noise_picture
from traced_texts import build_spy_segmenter, trace_text_with_phrases

from flmm.attention.spans import find_phrase_spans
from flmm.attention.tracing import trace_texts
from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.training_free.baselines.base import Baseline
from flmm.training_free.baselines.by_name import BASELINES
from flmm.training_free.baselines.localization_heads import (
    LocalizationHeadChoice,
    LocalizationHeads,
)
from flmm.training_free.traced_text import TracedText

PICTURE = noise_picture(33, 97)


def build_baseline(name: str) -> Baseline:
    if name == LocalizationHeads.name:
        # Some tiny LMMs have only two layers, whose heads are never chosen.
        return LocalizationHeads(LocalizationHeadChoice(((1, 0), (1, 2)), (1, 1), 1))
    return BASELINES[name]()


@pytest.mark.parametrize("name", BASELINES)
def test_masks_cover_the_picture(adapter: LMMAdapter, name: str) -> None:
    segmenter = build_spy_segmenter()
    texts = [
        trace_text_with_phrases(adapter, PICTURE, "the cat and the dog", ["the cat", "dog"]),
        trace_text_with_phrases(adapter, PICTURE, "x", []),
        _trace_question(adapter, "where is the cat?", ["the cat"]),
    ]
    embeddings = segmenter.encode(np.asarray(PICTURE))
    method = BASELINES[name]
    if method.needs_image_tokens_in_sequence and not adapter.image_tokens_in_sequence:
        with pytest.raises(InputError, match="needs image tokens in the LLM's sequence"):
            build_baseline(name).compute_maps(adapter, texts)
        return
    logits = build_baseline(name).predict_logits(adapter, texts, segmenter, embeddings)
    assert [tuple(each.shape) for each in logits] == [(2, 97, 33), (0, 97, 33), (1, 97, 33)]
    assert all(each.isfinite().all() for each in logits)
    maps = build_baseline(name).compute_maps(adapter, texts)
    assert [tuple(each.shape) for each in maps] == [
        (len(text.spans), *text.geometry.grid) for text in texts
    ]
    assert not torch.equal(maps[0][0], maps[0][1])


def _trace_question(adapter: LMMAdapter, question: str, phrases: list[str]) -> TracedText:
    prompt = adapter.build_prompt(PICTURE, question)
    (trace,) = trace_texts(adapter, [prompt], "question")
    spans = find_phrase_spans(question, phrases, prompt.question_offsets)
    return TracedText(PICTURE, prompt, trace, tuple(spans))
