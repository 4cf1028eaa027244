"""Llama 3.2 Vision: what is recorded of its cross-attention layers, alone and in batches."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contract_helpers import noise_picture
from tiny_grounding import CONFIG

from flmm.attention.recorder import AttentionRecorder, record
from flmm.attention.tracing import trace_generation, trace_text, trace_texts
from flmm.grounding.grounder import Grounder
from flmm.head.model import GroundingHead
from flmm.lmm.auto import load_lmm
from flmm.lmm.families.mllama import MllamaAdapter
from flmm.lmm.message import Message
from flmm.segmenters.sam import SamSegmenter

TILE_TOKENS = 17
"""16 patches after a class token."""
ONE_TILE, THREE_TILES = noise_picture(16, 16), noise_picture(33, 97)

STRINGS = "{% for m in messages %}{{ m.role + ': ' + m.content }} {% endfor %}"


@pytest.fixture(scope="module")
def adapter() -> MllamaAdapter:
    return MllamaAdapter.build_tiny(grouped_queries=True)


def test_rows_sum_to_one_over_the_tiles_of_the_picture(adapter: MllamaAdapter) -> None:
    batch = adapter.collate([adapter.build_prompt(THREE_TILES, "what?", "the cat")])
    positions = torch.tensor([[batch.inputs["input_ids"].shape[1] - 1]])
    columns = torch.arange(4 * TILE_TOKENS)[None]
    with record(AttentionRecorder(adapter, columns, positions), adapter) as recorder:
        adapter.model.base_model(**batch.model_inputs, use_cache=False)
    rows = recorder.rows(0, 1).token_rows([0], slice(None))
    assert rows.shape == (2, adapter.heads, 1, 4 * TILE_TOKENS)
    seen = rows[..., : 3 * TILE_TOKENS].sum(dim=-1)
    torch.testing.assert_close(seen, torch.ones_like(seen), rtol=0, atol=1e-4)
    assert not rows[..., 3 * TILE_TOKENS :].any()


def test_class_tokens_and_missing_tiles_are_no_columns(adapter: MllamaAdapter) -> None:
    prompt = adapter.build_prompt([THREE_TILES, ONE_TILE], "what?")
    first, second = (views[0] for views in prompt.picture_views)
    assert first.geometry.grid == (12, 4)
    assert first.token_positions[:, 0].tolist() == [
        start + row for start in (1, 18, 35) for row in (0, 4, 8, 12)
    ]
    assert second.geometry.grid == (4, 4)
    assert second.token_positions.flatten().tolist() == list(range(69, 85))


def test_batch_of_pictures_of_other_numbers_of_tiles_equals_each_alone(
    adapter: MllamaAdapter,
) -> None:
    prompts = [
        adapter.build_prompt(ONE_TILE, "what?", "the cat"),
        adapter.build_prompt(THREE_TILES, "what is on the grass?", "the cat and the dog"),
    ]
    for prompt, batched in zip(prompts, trace_texts(adapter, prompts), strict=True):
        alone = trace_text(adapter, prompt)
        torch.testing.assert_close(batched.attention, alone.attention, rtol=0, atol=2e-5)
        torch.testing.assert_close(batched.hidden_states, alone.hidden_states, rtol=0, atol=1e-4)


def test_batch_of_other_numbers_of_pictures_equals_each_alone(adapter: MllamaAdapter) -> None:
    # Text before a picture sees all that the batch holds for its conversation.
    history = [Message("system", "You point at things.")]
    prompts = [
        adapter.build_prompt([THREE_TILES, ONE_TILE, ONE_TILE][:count], "what?", "the cat", history)
        for count in (2, 0, 3, 1)
    ]
    for prompt, batched in zip(prompts, trace_texts(adapter, prompts), strict=True):
        alone = trace_text(adapter, prompt)
        torch.testing.assert_close(batched.hidden_states, alone.hidden_states, rtol=0, atol=1e-4)
        pairs = zip(batched.picture_attentions, alone.picture_attentions, strict=True)
        for first, second in pairs:
            torch.testing.assert_close(first.attention, second.attention, rtol=0, atol=2e-5)


def test_an_earlier_picture_is_not_seen_after_the_next_one(adapter: MllamaAdapter) -> None:
    history = [Message("user", "what is it?", (ONE_TILE,)), Message("assistant", "the dog")]
    apart = trace_text(adapter, adapter.build_prompt(THREE_TILES, "what?", "the cat", history))
    earlier, last = (each.attention for each in apart.picture_attentions)
    assert not earlier.any()
    assert last.any()
    together = trace_text(adapter, adapter.build_prompt([ONE_TILE, THREE_TILES], "what?", "cat"))
    assert all(each.attention.any() for each in together.picture_attentions)


@pytest.mark.parametrize("template", [None, STRINGS])
def test_all_pictures_are_seen_where_a_template_puts_them_on_lines(template: str | None) -> None:
    adapter = MllamaAdapter.build_tiny()
    adapter.tokenizer.chat_template = template
    prompt = adapter.build_prompt([ONE_TILE, THREE_TILES, ONE_TILE], "what?", "the cat")
    token_ids = prompt.inputs["input_ids"][0]
    question = token_ids[prompt.question_start :][: len(prompt.question_offsets)]
    assert adapter.decode(question) == "what?"
    assert adapter.decode(token_ids[prompt.answer_start :]) == "the cat"
    attentions = trace_text(adapter, prompt).picture_attentions
    assert all(each.attention.any() for each in attentions)


def test_an_answer_longer_than_the_picture(adapter: MllamaAdapter) -> None:
    prompt = adapter.build_prompt(ONE_TILE, "what is it?")
    generated, _ = trace_generation(adapter, prompt, 5 * TILE_TOKENS)
    assert len(generated.token_ids) > 4 * TILE_TOKENS, "the keys would not be fewer than the tokens"
    # What is said sees what the end of the prompt sees.
    seen = prompt.inputs["cross_attention_mask"]
    inputs = {
        **prompt.inputs,
        "input_ids": torch.cat([prompt.inputs["input_ids"], generated.token_ids[None]], dim=1),
        "attention_mask": torch.ones(1, prompt.length + len(generated.token_ids)),
        "cross_attention_mask": torch.cat(
            [seen, seen[:, -1:].expand(-1, len(generated.token_ids), -1, -1)], dim=1
        ),
    }
    offsets = tuple((0, 0) for _ in generated.token_ids)
    given = trace_text(adapter, replace(prompt, inputs=inputs, answer_offsets=offsets))
    torch.testing.assert_close(generated.attention, given.attention, rtol=0, atol=1e-4)


def test_hidden_states_without_a_picture_are_those_of_the_layer_before(
    adapter: MllamaAdapter,
) -> None:
    prompt = adapter.build_prompt([], "what?", "the cat")
    states = adapter.model.base_model(
        **adapter.collate([prompt]).model_inputs, output_hidden_states=True
    ).hidden_states
    trace = trace_text(adapter, prompt)
    # Of the five layers only 0, 2 and 4 run; states[1] and states[2] are what 0 and 2 put out.
    expected = torch.stack([states[1], states[2]])[:, 0, prompt.answer_start :]
    assert trace.hidden_states.equal(expected)


def test_loading_from_a_folder(adapter: MllamaAdapter, tmp_path: Path) -> None:
    adapter.model.save_pretrained(tmp_path)
    adapter.tokenizer.save_pretrained(tmp_path)
    adapter.image_processor.save_pretrained(tmp_path)
    loaded = load_lmm(str(tmp_path))
    assert isinstance(loaded, MllamaAdapter)
    expected = adapter.generate(adapter.build_prompt(THREE_TILES, "what is it?"), 6)
    answer = loaded.generate(loaded.build_prompt(THREE_TILES, "what is it?"), 6)
    assert answer.token_ids.equal(expected.token_ids)


def test_masks_with_a_head(adapter: MllamaAdapter) -> None:
    head = GroundingHead(replace(CONFIG, layers=adapter.layers), SamSegmenter.build_tiny())
    grounder = Grounder(adapter, head.eval())
    answer = grounder.segment(THREE_TILES, ["the cat", "grass"])
    assert [phrase.text for phrase in answer.phrases] == ["the cat", "grass"]
    assert all(phrase.mask.shape == (97, 33) for phrase in answer.phrases)
