"""What the model says to several at once is what it says to each alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from contract_helpers import noise_picture
from torch import Tensor

from flmm.attention.batched_generation import trace_generation_batch
from flmm.attention.trace import Trace
from flmm.attention.tracing import GenerationStep, trace_generation
from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.lmm.batched_generation import SamplingParams
from flmm.lmm.prompt import Prompt


@dataclass
class CollectingListener:
    prompt: Prompt
    max_new_tokens: int = 8
    sampling_params: SamplingParams = field(default_factory=SamplingParams)
    wants_trace: bool = True
    max_steps: int = 100
    """Tokens, after which the listener wants no more."""
    steps: list[GenerationStep] = field(default_factory=list)
    token_ids: Tensor | None = None
    trace: Trace | None = None

    def on_step(self, step: GenerationStep) -> bool:
        assert self.token_ids is None
        self.steps.append(step)
        return len(self.steps) < self.max_steps

    def on_end(self, token_ids: Tensor, trace: Trace | None) -> None:
        assert self.token_ids is None
        self.token_ids, self.trace = token_ids, trace


def example_prompts(adapter: LMMAdapter) -> list[Prompt]:
    """Of different lengths, about different pictures."""
    return [
        adapter.build_prompt(noise_picture(), "what is it?"),
        adapter.build_prompt(noise_picture(33, 97), "what is on the grass, and where is the cat?"),
        adapter.build_prompt([], "what?"),
    ]


def tensors_close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=2e-4)


def traces_close(one: Trace, other: Trace) -> bool:
    maps = zip(one.picture_attentions, other.picture_attentions, strict=True)
    return tensors_close(one.hidden_states, other.hidden_states) and all(
        tensors_close(mine.attention, theirs.attention) for mine, theirs in maps
    )


def test_each_answer_matches_generating_alone(adapter: LMMAdapter) -> None:
    heard = [
        CollectingListener(prompt, tokens)
        for prompt, tokens in zip(example_prompts(adapter), (8, 3, 5), strict=True)
    ]
    heard[2].wants_trace = False
    trace_generation_batch(adapter, heard)
    for one in heard:
        trace, text = trace_generation(adapter, one.prompt, one.max_new_tokens)
        assert one.token_ids is not None
        assert one.token_ids.equal(trace.token_ids)
        assert one.steps[-1].text == text
        if one.wants_trace:
            assert one.trace is not None
            assert traces_close(one.trace, trace)
            so_far = one.steps[-1].trace()
            assert so_far.token_ids.equal(trace.token_ids[:-1])


def test_stopped_listener_gets_no_more_steps(adapter: LMMAdapter) -> None:
    heard = [CollectingListener(prompt) for prompt in example_prompts(adapter)[:2]]
    heard[1].max_steps = 2
    trace_generation_batch(adapter, heard)
    alone, _ = trace_generation(adapter, heard[0].prompt, 8)
    assert [len(one.steps) for one in heard] == [8, 2]
    assert heard[1].trace is not None
    assert heard[1].trace.hidden_states.shape[1] == 2
    assert heard[0].token_ids is not None
    assert heard[0].token_ids.equal(alone.token_ids)


def test_answers_that_end_by_themselves(
    adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = example_prompts(adapter)[:2]
    free = adapter.generate(both[0], 6).token_ids
    monkeypatch.setattr(adapter.model.generation_config, "eos_token_id", int(free[4]))
    heard = [CollectingListener(prompt, 6) for prompt in both]
    trace_generation_batch(adapter, heard)
    for one in heard:
        alone = adapter.generate(one.prompt, 6)
        assert one.token_ids is not None
        assert one.token_ids.equal(alone.token_ids)


def sample_answers(adapter: LMMAdapter, samplings: Sequence[SamplingParams]) -> list[list[int]]:
    prompt = example_prompts(adapter)[0]
    heard = [CollectingListener(prompt, 6, sampling, wants_trace=False) for sampling in samplings]
    trace_generation_batch(adapter, heard)
    return [one.token_ids.tolist() for one in heard if one.token_ids is not None]


def test_seed_gives_same_tokens_in_any_batch(adapter: LMMAdapter) -> None:
    free = [SamplingParams(1.5, seed) for seed in (1, 2, 1)]
    first, second, again = sample_answers(adapter, free)
    assert first == again
    assert first != second
    assert sample_answers(adapter, [SamplingParams(), SamplingParams(1.5, 2)])[1] == second
    likeliest, coldest = sample_answers(adapter, [SamplingParams(), SamplingParams(1e-300, 5)])
    assert likeliest == coldest


def test_impossible_temperature_is_refused() -> None:
    with pytest.raises(InputError, match=r"temperature is -0\.1"):
        SamplingParams(-0.1)
