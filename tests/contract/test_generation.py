"""Recording a generation does not change it, and partial traces begin like the whole."""

import pytest
import torch
from contract_helpers import noise_picture

from flmm.attention.generation_step import GenerationStep
from flmm.attention.trace import Trace
from flmm.attention.tracing import trace_generation, trace_text
from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("with_callback", [False, True])
def test_recorded_answer_equals_the_plain_one(
    adapter: LMMAdapter, temperature: float, with_callback: bool
) -> None:
    prompt = adapter.build_prompt(noise_picture(), "what is it?")
    steps: list[GenerationStep] = []
    torch.manual_seed(3)
    alone = adapter.generate(prompt, 6, temperature)
    torch.manual_seed(3)
    trace, text = trace_generation(
        adapter, prompt, 6, steps.append if with_callback else None, temperature
    )
    assert text == alone.text
    assert trace.token_ids.equal(alone.token_ids)
    if with_callback:
        assert [step.token_id for step in steps] == alone.token_ids.tolist()
        # A last character that is not complete is only in the whole text, with white space before.
        rest = text.removeprefix(steps[-1].text).strip()
        assert rest in ("", "\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize(("tokens", "temperature"), [(0, 0.0), (3, -0.1)])
def test_impossible_generation_is_refused(
    adapter: LMMAdapter, tokens: int, temperature: float
) -> None:
    with pytest.raises(InputError, match=r"max_new_tokens is 0|temperature is -0\.1"):
        adapter.generate(adapter.build_prompt(noise_picture(), "what?"), tokens, temperature)


def test_answer_that_ends_by_itself(adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = adapter.build_prompt(noise_picture(), "what is it?")
    token_ids = adapter.generate(prompt, 6).token_ids
    eos_token_id = int(token_ids[4])
    length = token_ids.tolist().index(eos_token_id)
    monkeypatch.setattr(adapter.model.generation_config, "eos_token_id", eos_token_id)
    steps: list[GenerationStep] = []
    for limit in sorted({max(length, 1), length + 1, 6}):
        steps.clear()
        trace, text = trace_generation(adapter, prompt, limit, steps.append)
        assert trace.token_ids.equal(token_ids[:length])
        assert trace.attention.shape[2] == len(steps) == length
        assert text == adapter.generate(prompt, limit).text


def test_empty_answer(adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = adapter.build_prompt(noise_picture(), "what is it?")
    first = int(adapter.generate(prompt, 1).token_ids[0])
    monkeypatch.setattr(adapter.model.generation_config, "eos_token_id", first)
    trace, text = trace_generation(adapter, prompt, 4)
    assert text == ""
    rows = adapter.views * adapter.layers
    assert trace.attention.shape == (
        rows,
        adapter.heads,
        0,
        *prompt.picture_views[0][-1].geometry.grid,
    )
    assert trace.hidden_states.shape == (adapter.layers, 0, adapter.hidden_size)


def test_partial_traces_are_the_beginning_of_the_whole(adapter: LMMAdapter) -> None:
    prompt = adapter.build_prompt(noise_picture(), "what is it?")
    expected, _ = trace_generation(adapter, prompt, 18)
    partial: list[Trace] = []

    def on_step(step: GenerationStep) -> None:
        partial.append(step.trace())
        assert step.num_recorded == len(partial) - 1
        states = partial[-1].hidden_states
        assert all(step.hidden_states(i).equal(states[:, i:]) for i in range(step.num_recorded))

    trace, _ = trace_generation(adapter, prompt, 18, on_step)
    assert trace.attention.equal(expected.attention)
    for count, partial_trace in enumerate(partial):
        assert partial_trace.token_ids.equal(expected.token_ids[:count])
        assert partial_trace.attention.equal(expected.attention[:, :, :count])
        assert partial_trace.hidden_states.equal(expected.hidden_states[:, :count])


def test_conversation_without_a_picture(adapter: LMMAdapter) -> None:
    trace, text = trace_generation(adapter, adapter.build_prompt([], "what is it?"), 3)
    assert text == adapter.generate(adapter.build_prompt([], "what is it?"), 3).text
    assert trace.picture_attentions == ()
    text_trace = trace_text(adapter, adapter.build_prompt([], "what?", "a cat"))
    assert text_trace.picture_attentions == ()
    assert text_trace.hidden_states.shape[1] == len(text_trace.token_ids) > 0
