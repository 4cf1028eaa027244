"""Generating a batch of answers gives the same as generating each alone."""

from collections.abc import Sequence

import pytest
import torch
from contract_helpers import noise_picture
from generation_listeners import CollectingListener
from torch import Tensor

from flmm.attention.batched_tracing import trace_generation_batch
from flmm.attention.trace import Trace
from flmm.attention.tracing import trace_generation
from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt
from flmm.lmm.sampling import SamplingParams


def example_prompts(adapter: LMMAdapter) -> list[Prompt]:
    """Return prompts of different lengths about different pictures."""
    return [
        adapter.build_prompt(noise_picture(), "what is it?"),
        adapter.build_prompt(noise_picture(33, 97), "what is on the grass, and where is the cat?"),
        adapter.build_prompt([], "what?"),
    ]


def tensors_close(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.allclose(first, second, atol=2e-4)


def traces_close(first: Trace, second: Trace) -> bool:
    pairs = zip(first.picture_attentions, second.picture_attentions, strict=True)
    return tensors_close(first.hidden_states, second.hidden_states) and all(
        tensors_close(a.attention, b.attention) for a, b in pairs
    )


def test_each_answer_matches_generating_alone(adapter: LMMAdapter) -> None:
    listeners = [
        CollectingListener(prompt, tokens)
        for prompt, tokens in zip(example_prompts(adapter), (8, 3, 5), strict=True)
    ]
    listeners[2].wants_trace = False
    trace_generation_batch(adapter, listeners)
    for listener in listeners:
        trace, text = trace_generation(adapter, listener.prompt, listener.max_new_tokens)
        assert listener.token_ids is not None
        assert listener.token_ids.equal(trace.token_ids)
        rest = text.removeprefix(listener.steps[-1].text).strip()
        assert rest in ("", "\N{REPLACEMENT CHARACTER}")
        if listener.wants_trace:
            assert listener.trace is not None
            assert traces_close(listener.trace, trace)
            partial = listener.steps[-1].trace()
            assert partial.token_ids.equal(trace.token_ids[:-1])


def test_stopped_listener_gets_no_more_steps(adapter: LMMAdapter) -> None:
    listeners = [CollectingListener(prompt) for prompt in example_prompts(adapter)[:2]]
    listeners[1].max_steps = 2
    trace_generation_batch(adapter, listeners)
    alone, _ = trace_generation(adapter, listeners[0].prompt, 8)
    assert [len(listener.steps) for listener in listeners] == [8, 2]
    assert listeners[1].trace is not None
    assert listeners[1].trace.hidden_states.shape[1] == 2
    assert listeners[0].token_ids is not None
    assert listeners[0].token_ids.equal(alone.token_ids)


def test_answers_that_end_by_themselves(
    adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = example_prompts(adapter)[:2]
    token_ids = adapter.generate(prompts[0], 6).token_ids
    monkeypatch.setattr(adapter.model.generation_config, "eos_token_id", int(token_ids[4]))
    listeners = [CollectingListener(prompt, 6) for prompt in prompts]
    trace_generation_batch(adapter, listeners)
    for listener in listeners:
        alone = adapter.generate(listener.prompt, 6)
        assert listener.token_ids is not None
        assert listener.token_ids.equal(alone.token_ids)


def sample_answers(
    adapter: LMMAdapter, sampling_params: Sequence[SamplingParams]
) -> list[list[int]]:
    prompt = example_prompts(adapter)[0]
    listeners = [
        CollectingListener(prompt, 6, params, wants_trace=False) for params in sampling_params
    ]
    trace_generation_batch(adapter, listeners)
    return [entry.token_ids.tolist() for entry in listeners if entry.token_ids is not None]


def test_seed_gives_same_tokens_in_any_batch(adapter: LMMAdapter) -> None:
    sampling_params = [SamplingParams(1.5, seed) for seed in (1, 2, 1)]
    first, second, again = sample_answers(adapter, sampling_params)
    assert first == again
    assert first != second
    assert sample_answers(adapter, [SamplingParams(), SamplingParams(1.5, 2)])[1] == second
    greedy, coldest = sample_answers(adapter, [SamplingParams(), SamplingParams(1e-300, 5)])
    assert greedy == coldest


def test_impossible_temperature_is_refused() -> None:
    with pytest.raises(InputError, match=r"temperature is -0\.1"):
        SamplingParams(-0.1)
