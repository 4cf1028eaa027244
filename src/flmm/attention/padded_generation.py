"""Generation of several answers by transformers' ``generate``, for LMMs that the engine leaves."""

from collections.abc import Sequence
from contextlib import nullcontext

from torch import Tensor

from flmm.attention.answer_sequence import AnswerSequence, GenerationListener
from flmm.attention.recorder import AttentionRecorder, record
from flmm.attention.trace import RecordedRows
from flmm.lmm.base import LMMAdapter
from flmm.lmm.batched_generation import generate_batch


def generate_padded(adapter: LMMAdapter, listeners: Sequence[GenerationListener]) -> None:
    """Generate the answers of all listeners in one batch, padded on the left.

    Each token of a shorter answer takes as long as one of the longest. An exception in a listener
    ends all answers.
    """
    batch = adapter.collate([listener.prompt for listener in listeners])
    recorder = None
    if any(listener.wants_trace for listener in listeners):
        recorder = AttentionRecorder(adapter, batch.image_token_positions.to(adapter.device))
    sequences = [
        AnswerSequence(
            adapter,
            listener,
            None if recorder is None or not listener.wants_trace else _Row(recorder, row),
        )
        for row, listener in enumerate(listeners)
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


class _Row:
    """What is recorded of one sequence of a batch."""

    def __init__(self, recorder: AttentionRecorder, row: int) -> None:
        self._recorder = recorder
        self._row = row

    @property
    def num_recorded(self) -> int:
        return self._recorder.num_recorded

    def rows(self, count: int) -> RecordedRows:
        return self._recorder.rows(self._row, count)

    def hidden_states(self, first: int = 0) -> Tensor:
        # A view would keep the whole batch's states in memory as long as the trace lives.
        return self._recorder.hidden_states(first)[:, self._row].clone()

    def final_states(self) -> Tensor:
        return self._recorder.final_states()[self._row].clone()
