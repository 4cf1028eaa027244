"""One answer that is generated together with others, passed on token by token.

Letters: ``M`` layers, ``R`` recorded tokens, ``T`` tokens of the answer, ``D`` LLM width.
"""

from typing import Protocol

import torch
from torch import Tensor

from flmm.attention.generation_step import GenerationStep
from flmm.attention.trace import RecordedRows, Trace, split_by_picture
from flmm.lmm.base import LMMAdapter
from flmm.lmm.detokenizer import Detokenizer
from flmm.lmm.prompt import Prompt
from flmm.lmm.sampling import SamplingParams


class GenerationListener(Protocol):
    """A request whose answer is generated, with callbacks for it."""

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


class Recording(Protocol):
    """What is recorded of one answer so far."""

    @property
    def num_recorded(self) -> int:
        """R."""

    def rows(self, count: int) -> RecordedRows:
        """Return the attention rows of the first ``count`` tokens."""

    def hidden_states(self, first: int = 0) -> Tensor:
        """Return the (M, R - first, D) hidden states from token ``first`` on."""

    def final_states(self) -> Tensor:
        """Return the (R, D) hidden states after the final norm."""


class AnswerSequence:
    """The tokens of one answer so far, passed on to its listener.

    Args:
        adapter: the LMM.
        listener: the answer's.
        recording: None if the listener wants no trace.
    """

    def __init__(
        self, adapter: LMMAdapter, listener: GenerationListener, recording: Recording | None
    ) -> None:
        self.listener = listener
        self._adapter = adapter
        self._recording = recording
        self.token_ids: list[int] = []
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
        self.token_ids.append(token)
        continues = self.listener.on_step(self._build_step(token))
        self._complete = not continues or len(self.token_ids) >= self.listener.max_new_tokens
        if self._complete and self._recording is None:
            self._finish()

    def _finish(self) -> None:
        self.finished = True
        token_ids = torch.tensor(self.token_ids, dtype=torch.int64)
        trace = None if self._recording is None else self._build_trace(token_ids)
        self.listener.on_end(token_ids, trace)

    def _build_step(self, token: int) -> GenerationStep:
        self._detokenizer.add(token)
        text = self._detokenizer.stable_text
        offsets = self._detokenizer.offsets_from
        recording = self._recording
        if recording is None:
            return GenerationStep(token, text, offsets, 0, _refuse_hidden_states, _refuse_trace)
        num_recorded = min(len(self.token_ids), recording.num_recorded)

        def hidden_states(first: int) -> Tensor:
            return recording.hidden_states(first)[:, : num_recorded - first]

        return GenerationStep(
            token_id=token,
            text=text,
            offsets=offsets,
            num_recorded=num_recorded,
            hidden_states=hidden_states,
            trace=lambda: self._build_trace(torch.tensor(self.token_ids)[:num_recorded]),
        )

    def _build_trace(self, token_ids: Tensor) -> Trace:
        assert self._recording is not None
        count = len(token_ids)
        return Trace(
            token_ids=token_ids,
            picture_attentions=split_by_picture(self._recording.rows(count), self.listener.prompt),
            hidden_states=self._recording.hidden_states()[:, :count],
            final_states=self._recording.final_states()[:count],
        )


def _refuse_hidden_states(_first: int) -> Tensor:
    raise AssertionError("this listener wants no trace")


def _refuse_trace() -> Trace:
    raise AssertionError("this listener wants no trace")
