"""What the model says to several at once is what it says to each alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from contract_helpers import picture
from torch import Tensor

from flmm.attention.batched_generation import trace_generations
from flmm.attention.trace import Trace
from flmm.attention.tracing import Step, trace_generation
from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.lmm.batched_generation import Sampling
from flmm.lmm.prompt import Prompt


@dataclass
class Heard:
    prompt: Prompt
    max_new_tokens: int = 8
    sampling: Sampling = field(default_factory=Sampling)
    wants_trace: bool = True
    enough: int = 100
    """Tokens, after which the listener wants no more."""
    steps: list[Step] = field(default_factory=list)
    token_ids: Tensor | None = None
    trace: Trace | None = None

    def hear(self, step: Step) -> bool:
        assert self.token_ids is None
        self.steps.append(step)
        return len(self.steps) < self.enough

    def end_of_answer(self, token_ids: Tensor, trace: Trace | None) -> None:
        assert self.token_ids is None
        self.token_ids, self.trace = token_ids, trace


def prompts(adapter: LMMAdapter) -> list[Prompt]:
    """Of different lengths, about different pictures."""
    return [
        adapter.prepare(picture(), "what is it?"),
        adapter.prepare(picture(33, 97), "what is on the grass, and where is the cat?"),
        adapter.prepare([], "what?"),
    ]


def close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=2e-4)


def same_trace(one: Trace, other: Trace) -> bool:
    maps = zip(one.pictures, other.pictures, strict=True)
    return close(one.hidden_states, other.hidden_states) and all(
        close(mine.attention, theirs.attention) for mine, theirs in maps
    )


def test_each_hears_what_it_would_hear_alone(adapter: LMMAdapter) -> None:
    heard = [
        Heard(prompt, tokens) for prompt, tokens in zip(prompts(adapter), (8, 3, 5), strict=True)
    ]
    heard[2].wants_trace = False
    trace_generations(adapter, heard)
    for one in heard:
        trace, text = trace_generation(adapter, one.prompt, one.max_new_tokens)
        assert one.token_ids is not None
        assert one.token_ids.equal(trace.token_ids)
        assert one.steps[-1].text == text
        if one.wants_trace:
            assert one.trace is not None
            assert same_trace(one.trace, trace)
            so_far = one.steps[-1].trace()
            assert so_far.token_ids.equal(trace.token_ids[:-1])


def test_who_has_heard_enough_is_told_no_more(adapter: LMMAdapter) -> None:
    heard = [Heard(prompt) for prompt in prompts(adapter)[:2]]
    heard[1].enough = 2
    trace_generations(adapter, heard)
    alone, _ = trace_generation(adapter, heard[0].prompt, 8)
    assert [len(one.steps) for one in heard] == [8, 2]
    assert heard[1].trace is not None
    assert heard[1].trace.hidden_states.shape[1] == 2
    assert heard[0].token_ids is not None
    assert heard[0].token_ids.equal(alone.token_ids)


def test_answers_that_end_by_themselves(
    adapter: LMMAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = prompts(adapter)[:2]
    free = adapter.generate(both[0], 6).token_ids
    monkeypatch.setattr(adapter.model.generation_config, "eos_token_id", int(free[4]))
    heard = [Heard(prompt, 6) for prompt in both]
    trace_generations(adapter, heard)
    for one in heard:
        alone = adapter.generate(one.prompt, 6)
        assert one.token_ids is not None
        assert one.token_ids.equal(alone.token_ids)


def drawn(adapter: LMMAdapter, samplings: Sequence[Sampling]) -> list[list[int]]:
    prompt = prompts(adapter)[0]
    heard = [Heard(prompt, 6, sampling, wants_trace=False) for sampling in samplings]
    trace_generations(adapter, heard)
    return [one.token_ids.tolist() for one in heard if one.token_ids is not None]


def test_a_seed_draws_the_same_tokens_whoever_else_is_there(adapter: LMMAdapter) -> None:
    free = [Sampling(1.5, seed) for seed in (1, 2, 1)]
    first, second, again = drawn(adapter, free)
    assert first == again
    assert first != second
    assert drawn(adapter, [Sampling(), Sampling(1.5, 2)])[1] == second
    likeliest, coldest = drawn(adapter, [Sampling(), Sampling(1e-300, 5)])
    assert likeliest == coldest


def test_impossible_temperature_is_refused() -> None:
    with pytest.raises(InputError, match=r"temperature is -0\.1"):
        Sampling(-0.1)
