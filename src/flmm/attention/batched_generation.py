"""Several answers said at once, each heard token by token and traced as if it were said alone."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor

from flmm.attention.recorder import Recording, record
from flmm.attention.trace import Trace
from flmm.attention.tracing import Step, by_picture
from flmm.lmm.base import LMMAdapter
from flmm.lmm.batched_generation import Sampling, generate_batch
from flmm.lmm.prompt import Prompt


class Listener(Protocol):
    """Somebody who asked, and hears the answer."""

    @property
    def prompt(self) -> Prompt:
        """What is asked; without an answer."""

    @property
    def max_new_tokens(self) -> int:
        """The answer is cut there."""

    @property
    def sampling(self) -> Sampling:
        """How its tokens are chosen."""

    @property
    def wants_trace(self) -> bool:
        """Without, ``Step.trace`` and ``Step.hidden_states`` cannot be asked for."""

    def hear(self, step: Step) -> bool:
        """A token was said; whether the answer shall go on."""

    def end_of_answer(self, token_ids: Tensor, trace: Trace | None) -> None:
        """The answer's (T,) tokens, and its trace where that is wanted."""


def trace_generations(adapter: LMMAdapter, listeners: Sequence[Listener]) -> None:
    """Answers all listeners at once, token by token; see ``trace_generation`` for one alone.

    Each token of a shorter answer takes as long as one of the longest. What a listener raises ends
    all answers.
    """
    batch = adapter.collate([listener.prompt for listener in listeners])
    recording = None
    if any(listener.wants_trace for listener in listeners):
        recording = Recording(adapter, batch.image_columns.to(adapter.device))
    answers = [_Answer(adapter, listener, recording, row) for row, listener in enumerate(listeners)]

    def hear(tokens: list[int]) -> list[bool]:
        for answer, token in zip(answers, tokens, strict=True):
            answer.hear(token)
        return [answer.ended for answer in answers]

    with adapter.lock, nullcontext() if recording is None else record(recording, adapter):
        # One token too many is asked for, since a token's row is known only once it is fed back.
        longest = max(listener.max_new_tokens for listener in listeners) + 1
        samplings = [listener.sampling for listener in listeners]
        generate_batch(adapter, batch, samplings, longest, hear)


class _Answer:
    """One sequence of the batch."""

    def __init__(
        self, adapter: LMMAdapter, listener: Listener, recording: Recording | None, row: int
    ) -> None:
        self._adapter = adapter
        self._listener = listener
        self._recording = recording if listener.wants_trace else None
        self._row = row
        self._said: list[int] = []
        self._complete = False
        self.ended = False

    def hear(self, token: int) -> None:
        """The next token, which may be one too many."""
        if self.ended:
            return
        if self._complete or token in self._adapter.end_token_ids:
            self._end()
            return
        self._said.append(token)
        goes_on = self._listener.hear(self._step(token))
        self._complete = not goes_on or len(self._said) >= self._listener.max_new_tokens
        if self._complete and self._recording is None:
            self._end()

    def _end(self) -> None:
        self.ended = True
        token_ids = torch.tensor(self._said, dtype=torch.int64)
        trace = None if self._recording is None else self._trace(token_ids)
        self._listener.end_of_answer(token_ids, trace)

    def _step(self, token: int) -> Step:
        said = torch.tensor(self._said)
        text = self._adapter.decode(said)
        recording = self._recording
        if recording is None:
            return Step(token, text, 0, _no_states, _no_trace)
        known = said[: recording.steps]

        def hidden_states(first: int) -> Tensor:
            return recording.hidden_states(first)[:, self._row, : len(known) - first]

        return Step(token, text, len(known), hidden_states, lambda: self._trace(known))

    def _trace(self, token_ids: Tensor) -> Trace:
        assert self._recording is not None
        count = len(token_ids)
        return Trace(
            token_ids=token_ids,
            pictures=by_picture(self._recording.rows(self._row, count), self._listener.prompt),
            # Copied, for a trace may wait for its masks: the others' states would wait with it.
            hidden_states=self._recording.hidden_states()[:, self._row, :count].clone(),
        )


def _no_states(_first: int) -> Tensor:
    raise AssertionError("this listener wants no trace")


def _no_trace() -> Trace:
    raise AssertionError("this listener wants no trace")
