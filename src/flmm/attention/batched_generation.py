"""Several answers said at once, each heard token by token and traced as if it were said alone."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor

from flmm.attention.recorder import AttentionRecorder, record
from flmm.attention.trace import Trace
from flmm.attention.tracing import GenerationStep, split_by_picture
from flmm.lmm.base import LMMAdapter
from flmm.lmm.batched_generation import SamplingParams, generate_batch
from flmm.lmm.prompt import Prompt


class GenerationListener(Protocol):
    """Somebody who asked, and hears the answer."""

    @property
    def prompt(self) -> Prompt:
        """What is asked; without an answer."""

    @property
    def max_new_tokens(self) -> int:
        """The answer is cut there."""

    @property
    def sampling_params(self) -> SamplingParams:
        """How its tokens are chosen."""

    @property
    def wants_trace(self) -> bool:
        """Without, ``Step.trace`` and ``Step.hidden_states`` cannot be asked for."""

    def on_step(self, step: GenerationStep) -> bool:
        """A token was said; whether the answer shall go on."""

    def on_end(self, token_ids: Tensor, trace: Trace | None) -> None:
        """The answer's (T,) tokens, and its trace where that is wanted."""


def trace_generation_batch(adapter: LMMAdapter, listeners: Sequence[GenerationListener]) -> None:
    """Answers all listeners at once, token by token; see ``trace_generation`` for one alone.

    Each token of a shorter answer takes as long as one of the longest. What a listener raises ends
    all answers.
    """
    batch = adapter.collate([listener.prompt for listener in listeners])
    recording = None
    if any(listener.wants_trace for listener in listeners):
        recording = AttentionRecorder(adapter, batch.image_token_positions.to(adapter.device))
    answers = [
        _BatchSequence(adapter, listener, recording, row) for row, listener in enumerate(listeners)
    ]

    def on_tokens(tokens: list[int]) -> list[bool]:
        for answer, token in zip(answers, tokens, strict=True):
            answer.add_token(token)
        return [answer.finished for answer in answers]

    with adapter.lock, nullcontext() if recording is None else record(recording, adapter):
        # One token too many is asked for, since a token's row is known only once it is fed back.
        longest = max(listener.max_new_tokens for listener in listeners) + 1
        samplings = [listener.sampling_params for listener in listeners]
        generate_batch(adapter, batch, samplings, longest, on_tokens)


class _BatchSequence:
    """One sequence of the batch."""

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
        self._complete = False
        self.finished = False

    def add_token(self, token: int) -> None:
        """The next token, which may be one too many."""
        if self.finished:
            return
        if self._complete or token in self._adapter.eos_token_ids:
            self._finish()
            return
        self._token_ids.append(token)
        goes_on = self._listener.on_step(self._build_step(token))
        self._complete = not goes_on or len(self._token_ids) >= self._listener.max_new_tokens
        if self._complete and self._recorder is None:
            self._finish()

    def _finish(self) -> None:
        self.finished = True
        token_ids = torch.tensor(self._token_ids, dtype=torch.int64)
        trace = None if self._recorder is None else self._build_trace(token_ids)
        self._listener.on_end(token_ids, trace)

    def _build_step(self, token: int) -> GenerationStep:
        said = torch.tensor(self._token_ids)
        text = self._adapter.decode(said)
        recording = self._recorder
        if recording is None:
            return GenerationStep(token, text, 0, _refuse_hidden_states, _refuse_trace)
        known = said[: recording.num_recorded]

        def hidden_states(first: int) -> Tensor:
            return recording.hidden_states(first)[:, self._row, : len(known) - first]

        return GenerationStep(
            token, text, len(known), hidden_states, lambda: self._build_trace(known)
        )

    def _build_trace(self, token_ids: Tensor) -> Trace:
        assert self._recorder is not None
        count = len(token_ids)
        return Trace(
            token_ids=token_ids,
            picture_attentions=split_by_picture(
                self._recorder.rows(self._row, count), self._listener.prompt
            ),
            # Copied, for a trace may wait for its masks: the others' states would wait with it.
            hidden_states=self._recorder.hidden_states()[:, self._row, :count].clone(),
        )


def _refuse_hidden_states(_first: int) -> Tensor:
    raise AssertionError("this listener wants no trace")


def _refuse_trace() -> Trace:
    raise AssertionError("this listener wants no trace")
