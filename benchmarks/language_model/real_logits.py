"""What flmm does beside transformers' own arithmetic, where logits are those of a trained LLM.

Recorded attention is compared with eager attention, and the decoding engine's answers with those of
transformers' ``generate``, token by token. Letters: ``T`` tokens of an answer.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flmm.attention.batched_tracing import trace_generation_batch
from flmm.attention.eager import LayerInputs, compute_eager_rows
from flmm.attention.generation_step import GenerationStep
from flmm.attention.trace import Trace
from flmm.attention.tracing import trace_text
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Prompt
from flmm.lmm.sampling import GREEDY, SamplingParams
from flmm.progress import ProgressCallback

TOGETHER = 16


@dataclass(frozen=True)
class EagerDifference:
    """The greatest difference between recorded rows and those of eager attention."""

    texts: int
    greatest: float
    greatest_weight: float
    """The greatest attention weight, to compare with."""


@dataclass(frozen=True)
class GenerationDifference:
    """The engine's answers beside those of transformers' ``generate``."""

    answers: int
    tokens: int
    """Of all answers."""
    same_answers: int
    recorded_same_answers: int
    """Answers that are the engine's own without recording, token by token."""
    same_tokens: int
    """Tokens up to the first other one of each answer: those of the same past that are the same."""
    generate_seconds: float
    """Seconds a token, one answer after the other."""
    engine_seconds: float
    """Seconds a token, ``TOGETHER`` answers at a time."""
    recorded_seconds: float

    @property
    def same_share(self) -> float:
        """The share of tokens that are the same where both are given the same past, in 0..1."""
        return self.same_tokens / (self.same_tokens + self.answers - self.same_answers)


def compare_with_eager_attention(
    adapter: LMMAdapter, prompts: Sequence[Prompt], on_progress: ProgressCallback
) -> EagerDifference:
    """Compare the recorded rows of given answers with eager attention's."""
    greatest = weight = 0.0
    for done, prompt in enumerate(prompts, 1):
        inputs = LayerInputs(adapter)
        with inputs.capture():
            rows = trace_text(adapter, prompt).picture_attention.rows
        expected = compute_eager_rows(adapter, prompt, inputs)
        recorded = rows.token_rows(range(rows.num_tokens), slice(0, expected.shape[-1]))
        greatest = max(greatest, float((recorded.cpu() - expected).abs().max()))
        weight = max(weight, float(expected.max()))
        on_progress(done, len(prompts), "eager attention")
    return EagerDifference(len(prompts), greatest, weight)


def compare_with_generate(
    adapter: LMMAdapter, prompts: Sequence[Prompt], new_tokens: int, on_progress: ProgressCallback
) -> GenerationDifference:
    """Generate greedy answers of exactly ``new_tokens`` tokens in three ways, and compare them."""
    seconds = {"generate": 0.0, "engine": 0.0, "recorded": 0.0}
    same_answers = recorded_same = same_tokens = 0
    with _without_end(adapter):
        for first in range(0, len(prompts), TOGETHER):
            chunk = prompts[first : first + TOGETHER]
            with _timed(seconds, "generate"):
                expected = [adapter.generate(prompt, new_tokens).token_ids for prompt in chunk]
            with _timed(seconds, "engine"):
                plain = generate_together(adapter, chunk, new_tokens, wants_trace=False)
            with _timed(seconds, "recorded"):
                recorded = generate_together(adapter, chunk, new_tokens, wants_trace=True)
            for ours, again, theirs in zip(plain, recorded, expected, strict=True):
                same = int((ours == theirs).long().cumprod(0).sum())
                same_tokens += same
                same_answers += same == new_tokens
                recorded_same += ours.equal(again)
            on_progress(first + len(chunk), len(prompts), "answers")
    tokens = len(prompts) * new_tokens
    return GenerationDifference(
        len(prompts), tokens, same_answers, recorded_same, same_tokens,
        *(total / tokens for total in seconds.values()),
    )  # fmt: skip


@dataclass
class _Answer:
    """A ``GenerationListener`` that keeps the tokens."""

    prompt: Prompt
    max_new_tokens: int
    wants_trace: bool
    sampling_params: SamplingParams = GREEDY
    token_ids: Tensor = field(init=False)

    def on_step(self, _step: GenerationStep) -> bool:
        return True

    def on_end(self, token_ids: Tensor, _trace: Trace | None) -> None:
        self.token_ids = token_ids.cpu()


def generate_together(
    adapter: LMMAdapter, prompts: Sequence[Prompt], new_tokens: int, wants_trace: bool
) -> list[Tensor]:
    """Return each answer's (T,) tokens."""
    answers = [_Answer(prompt, new_tokens, wants_trace) for prompt in prompts]
    with torch.no_grad():
        trace_generation_batch(adapter, answers)
    return [answer.token_ids for answer in answers]


@contextmanager
def _without_end(adapter: LMMAdapter) -> Iterator[None]:
    """Let no token end an answer."""
    config = adapter.model.generation_config
    assert config is not None
    before, config.eos_token_id = config.eos_token_id, None
    try:
        yield
    finally:
        config.eos_token_id = before


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - begin
