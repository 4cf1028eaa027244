"""The comparison with transformers' own arithmetic sees what is the same, and what is not."""

from pathlib import Path

import pytest
from language_model.real_logits import (
    SpanDifference,
    compare_spans,
    compare_with_eager_attention,
    compare_with_generate,
)
from language_model.real_logits_results import measure_real_logits, render_tables
from language_model_fixtures import save_tiny_lmm
from PIL import Image
from torch import Tensor

from flmm.attention.eager import LayerInputs, compute_eager_rows
from flmm.attention.spans import compute_token_offsets
from flmm.lmm.base import LMMAdapter
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.prompt import Offsets, Prompt
from flmm.progress import no_progress

PICTURE = Image.linear_gradient("L").resize((40, 40)).convert("RGB")


@pytest.fixture
def adapter() -> LMMAdapter:
    return LlavaAdapter.build_tiny()


def test_recorded_rows_are_those_of_eager_attention(adapter: LMMAdapter) -> None:
    prompts = [adapter.build_prompt(PICTURE, "what?", text) for text in ("a cat", "the dog")]
    difference = compare_with_eager_attention(adapter, prompts, no_progress)
    assert difference.texts == 2
    assert difference.greatest < 1e-5 < difference.greatest_weight


def test_a_changed_row_is_seen(adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    def compute_others(adapter: LMMAdapter, prompt: Prompt, inputs: LayerInputs) -> Tensor:
        rows = compute_eager_rows(adapter, prompt, inputs)
        rows[-1, -1, -1, -1] += 0.01
        return rows

    monkeypatch.setattr("language_model.real_logits.compute_eager_rows", compute_others)
    prompt = adapter.build_prompt(PICTURE, "what?", "a cat")
    difference = compare_with_eager_attention(adapter, [prompt], no_progress)
    assert difference.greatest == pytest.approx(0.01, rel=1e-3)


def test_answers_are_those_of_generate(adapter: LMMAdapter) -> None:
    prompts = [
        adapter.build_prompt(PICTURE, "what is it?"),
        adapter.build_prompt((), "what is on the grass?"),
    ]
    difference = compare_with_generate(adapter, prompts, 12)
    assert (difference.answers, difference.tokens) == (2, 24)
    assert (difference.same_answers, difference.recorded_same_answers) == (2, 2)
    assert difference.same_tokens == 24
    assert difference.same_share == 1
    assert adapter.eos_token_ids


def test_another_token_is_seen(adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = adapter.build_prompt(PICTURE, "what is it?")
    generate = adapter.generate

    def generate_with_another_end(*arguments: object) -> object:
        generation = generate(*arguments)  # type: ignore[arg-type]
        generation.token_ids[9] += 1
        return generation

    monkeypatch.setattr(adapter, "generate", generate_with_another_end)
    difference = compare_with_generate(adapter, [prompt], 12)
    assert (difference.same_answers, difference.same_tokens) == (0, 9)
    assert difference.same_share == pytest.approx(0.9)
    assert len(difference.seconds) == 3


def test_tokens_of_words_are_the_tokenizers(
    adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["what is on the grass?", "A cat's dog"]
    assert compare_spans(adapter, texts) == SpanDifference(9, 9)

    def shift(*arguments: object) -> Offsets:
        return tuple((start + 1, end + 1) for start, end in compute_token_offsets(*arguments))  # type: ignore[arg-type]

    monkeypatch.setattr("language_model.real_logits.compute_token_offsets", shift)
    assert compare_spans(adapter, texts).same_words < 9


def test_all_comparisons_of_an_lmm_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lmm = save_tiny_lmm(tmp_path / "lmm")
    results = measure_real_logits(tmp_path / "out", lmm, no_progress, 18, 4, 1)
    assert (results.float32.texts, results.bfloat16.texts) == (5, 5)
    assert max(results.float32.greatest, results.bfloat16.greatest) < 1e-4
    generation = results.generation
    assert (generation.answers, generation.tokens, generation.same_answers) == (18, 72, 18)
    assert len(results.peaks.bytes) == 3
    table = render_tables(results)
    assert "18 of 18 (100.000% of tokens" in table
    # What is there is not compared again.
    for name in ("compare_with_generate", "compare_with_eager_attention"):
        monkeypatch.setattr(f"language_model.real_logits_results.{name}", pytest.fail)
    assert measure_real_logits(tmp_path / "out", lmm, no_progress, 18, 4, 1) == results
