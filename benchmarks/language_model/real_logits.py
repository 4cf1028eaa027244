"""What flmm does beside transformers' own arithmetic, where logits are those of a trained LLM.

Recorded attention is compared with eager attention, the decoding engine's answers with those of
transformers' ``generate``, token by token, the tokens of words with the tokenizer's own offsets.
Letters: ``T`` tokens of an answer.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor

from flmm.attention.batched_tracing import trace_generation_batch
from flmm.attention.eager import LayerInputs, compute_eager_rows
from flmm.attention.generation_step import GenerationStep
from flmm.attention.spans import compute_token_offsets, make_phrase_span
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


class Way(StrEnum):
    """How answers are generated."""

    GENERATE = "`generate`, one by one"
    ENGINE = f"engine, {TOGETHER} at a time"
    RECORDED = "engine, with recording"


@dataclass(frozen=True)
class SpanDifference:
    """The tokens of words, beside the tokenizer's own offsets."""

    words: int
    same_words: int
    """Words whose tokens are those that the tokenizer says."""


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
    seconds: tuple[float, ...]
    """Of all answers, for each ``Way``."""

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
    adapter: LMMAdapter, prompts: Sequence[Prompt], new_tokens: int
) -> GenerationDifference:
    """Generate greedy answers of exactly ``new_tokens`` tokens in three ways, and compare them.

    Args:
        adapter: the LMM.
        prompts: at most ``TOGETHER``, without answers.
        new_tokens: of each answer.
    """
    answers, seconds = [], []
    for way in Way:
        start = time.perf_counter()
        answers.append(generate_in(way, adapter, prompts, new_tokens))
        seconds.append(time.perf_counter() - start)
    expected, plain, recorded = answers
    same = [
        int((ours == theirs).long().cumprod(0).sum())
        for ours, theirs in zip(plain, expected, strict=True)
    ]
    return GenerationDifference(
        len(prompts), len(prompts) * new_tokens, same.count(new_tokens),
        sum(ours.equal(again) for ours, again in zip(plain, recorded, strict=True)), sum(same),
        tuple(seconds),
    )  # fmt: skip


def generate_in(
    way: Way, adapter: LMMAdapter, prompts: Sequence[Prompt], new_tokens: int
) -> list[Tensor]:
    """Return each greedy answer's tokens, exactly ``new_tokens``."""
    with _without_end(adapter):
        if way is Way.GENERATE:
            return [adapter.generate(prompt, new_tokens).token_ids for prompt in prompts]
        return generate_together(adapter, prompts, new_tokens, wants_trace=way is Way.RECORDED)


def compare_spans(adapter: LMMAdapter, texts: Sequence[str]) -> SpanDifference:
    """Compare the tokens of each word with those that the fast tokenizer's own offsets give it."""
    words = same = 0
    for text in texts:
        encoding = adapter.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        theirs = encoding["offset_mapping"]
        theirs = tuple((start, end) for start, end in theirs)
        ours = compute_token_offsets(adapter.tokenizer, torch.tensor(encoding["input_ids"]), text)
        for word in re.finditer(r"\w+", text):
            spans = [make_phrase_span(text, *word.span(), offsets) for offsets in (ours, theirs)]
            words += 1
            same += spans[0] == spans[1]
    return SpanDifference(words, same)


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
