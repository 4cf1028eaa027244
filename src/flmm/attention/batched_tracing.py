"""Generation of several answers in one batch, with each answer's steps and trace."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor

from flmm.attention.recorder import AttentionRecorder, record
from flmm.attention.trace import Trace
from flmm.attention.tracing import GenerationStep, split_by_picture
from flmm.lmm.base import LMMAdapter
from flmm.lmm.batched_generation import generate_batch
from flmm.lmm.detokenizer import Detokenizer
from flmm.lmm.padding import group_for_padding
from flmm.lmm.prompt import Prompt
from flmm.lmm.sampling import SamplingParams


class GenerationListener(Protocol):
    """A request of the batch, with callbacks for its answer."""

    @property
    def prompt(self) -> Prompt:
        """The prompt, without an answer."""

    @property
    def max_new_tokens(self) -> int:
        """At most this many tokens are generated."""

    @property
    def sampling_params(self) -> SamplingParams:
        """How the tokens are sampled."""

    @property
    def wants_trace(self) -> bool:
        """Whether to record; if not, ``GenerationStep.trace`` and ``hidden_states`` raise."""

    def on_step(self, step: GenerationStep) -> bool:
        """Receive a generated token; return whether to go on."""

    def on_end(self, token_ids: Tensor, trace: Trace | None) -> None:
        """Receive the answer's (T,) tokens, and its trace if ``wants_trace``."""


def trace_generation_batch(adapter: LMMAdapter, listeners: Sequence[GenerationListener]) -> None:
    """Generate the answers of all listeners in one batch; ``trace_generation`` does it for one.

    Each token of a shorter answer takes as long as one of the longest. An exception in a listener
    ends all answers. Prompts of different lengths are batches of their own, one after another, for
    LLMs that padding would change.
    """
    for group in group_for_padding(adapter, [listener.prompt for listener in listeners]):
        _generate_padded(adapter, [listeners[index] for index in group])


def _generate_padded(adapter: LMMAdapter, listeners: Sequence[GenerationListener]) -> None:
    batch = adapter.collate([listener.prompt for listener in listeners])
    recorder = None
    if any(listener.wants_trace for listener in listeners):
        recorder = AttentionRecorder(adapter, batch.image_token_positions.to(adapter.device))
    sequences = [
        _BatchSequence(adapter, listener, recorder, row) for row, listener in enumerate(listeners)
    ]

    def on_tokens(tokens: list[int]) -> list[bool]:
        for sequence, token in zip(sequences, tokens, strict=True):
            sequence.add_token(token)
        return [sequence.finished for sequence in sequences]

    with adapter.recording_lock, nullcontext() if recorder is None else record(recorder, adapter):
        # A token's row is recorded when the token is fed back, so generate one more.
        longest = max(listener.max_new_tokens for listener in listeners) + 1
        samplings = [listener.sampling_params for listener in listeners]
        generate_batch(adapter, batch, samplings, longest, on_tokens)


class _BatchSequence:
    """One sequence of the batch: its tokens so far, passed on to its listener."""

    def __init__(
        self,
        adapter: LMMAdapter,
        listener: GenerationListener,
        recorder: AttentionRecorder | None,
        row: int,
    ) -> None:
        self._adapter = adapter
        self._listener = listener
        self._recorder = recorder if listener.wants_trace else None
        self._row = row
        self._token_ids: list[int] = []
        self._detokenizer = Detokenizer(adapter.tokenizer)
        self._complete = False
        self.finished = False

    def add_token(self, token: int) -> None:
        """Add a generated token; the one after the last only completes the trace."""
        if self.finished:
            return
        if self._complete or token in self._adapter.eos_token_ids:
            self._finish()
            return
        self._token_ids.append(token)
        continues = self._listener.on_step(self._build_step(token))
        self._complete = not continues or len(self._token_ids) >= self._listener.max_new_tokens
        if self._complete and self._recorder is None:
            self._finish()

    def _finish(self) -> None:
        self.finished = True
        token_ids = torch.tensor(self._token_ids, dtype=torch.int64)
        trace = None if self._recorder is None else self._build_trace(token_ids)
        self._listener.on_end(token_ids, trace)

    def _build_step(self, token: int) -> GenerationStep:
        self._detokenizer.add(token)
        text = self._detokenizer.stable_text
        offsets = self._detokenizer.offsets_from
        recorder = self._recorder
        if recorder is None:
            return GenerationStep(token, text, offsets, 0, _refuse_hidden_states, _refuse_trace)
        num_recorded = min(len(self._token_ids), recorder.num_recorded)

        def hidden_states(first: int) -> Tensor:
            return recorder.hidden_states(first)[:, self._row, : num_recorded - first]

        return GenerationStep(
            token_id=token,
            text=text,
            offsets=offsets,
            num_recorded=num_recorded,
            hidden_states=hidden_states,
            trace=lambda: self._build_trace(torch.tensor(self._token_ids)[:num_recorded]),
        )

    def _build_trace(self, token_ids: Tensor) -> Trace:
        assert self._recorder is not None
        count = len(token_ids)
        return Trace(
            token_ids=token_ids,
            picture_attentions=split_by_picture(
                self._recorder.rows(self._row, count), self._listener.prompt
            ),
            # A view would keep the whole batch's states in memory as long as the trace lives.
            hidden_states=self._recorder.hidden_states()[:, self._row, :count].clone(),
            final_states=self._recorder.final_states()[self._row, :count].clone(),
        )


def _refuse_hidden_states(_first: int) -> Tensor:
    raise AssertionError("this listener wants no trace")


def _refuse_trace() -> Trace:
    raise AssertionError("this listener wants no trace")
