"""Answers that the decoding engine generates together; each joins and leaves at any step.

Letters: ``B`` answers, ``V`` vocabulary, ``L`` tokens so far.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor
from transformers.generation.logits_process import LogitsProcessorList

from flmm.attention.answer_sequence import AnswerSequence, GenerationListener
from flmm.attention.recorder import record
from flmm.attention.sequence_record import SequenceRecord
from flmm.attention.step_recorder import StepRecorder
from flmm.lmm.base import LMMAdapter
from flmm.lmm.decoding.batch import DecodingBatch
from flmm.lmm.decoding.logits_processors import build_logits_processors
from flmm.lmm.sampling import TokenSampler


@dataclass(frozen=True)
class _Answer:
    """An answer that is being generated."""

    sequence: AnswerSequence
    record: SequenceRecord | None
    """None if it is not recorded."""
    sampler: TokenSampler
    processors: LogitsProcessorList

    def choose_token(self, logits: Tensor) -> int:
        """Return the next token, given its (V,) logits."""
        if self.processors:
            listener, device = self.sequence.listener, logits.device
            prompt_ids = listener.prompt.inputs["input_ids"][0]
            token_ids = torch.cat([prompt_ids, torch.tensor(self.sequence.token_ids).long()])
            # transformers types its arguments more narrowly than torch its results.
            process = cast(Callable[[Tensor, Tensor], Tensor], self.processors)
            logits = process(token_ids[None].to(device), logits[None])[0]
        return int(self.sampler.sample(logits))


class AnswerBatch:
    """The answers that are being generated; a context manager, and possible inside it only.

    It holds ``adapter.recording_lock``. After the first token, an exception in a
    listener ends its answer alone.
    """

    def __init__(self, adapter: LMMAdapter) -> None:
        self._adapter = adapter
        self._batch = DecodingBatch(adapter)
        self._recorder = StepRecorder(adapter)
        windows = dict(zip(adapter.decoder_layers, self._batch.windows, strict=True))
        self._windows = [windows[layer] for layer in adapter.recorded_layers]
        self._answers: list[_Answer] = []
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        with self._undo as undo:
            undo.enter_context(self._adapter.recording_lock)
            undo.enter_context(torch.no_grad())
            undo.enter_context(self._batch)
            undo.enter_context(record(self._recorder, self._adapter))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    @property
    def num_answers(self) -> int:
        """How many answers are being generated."""
        return len(self._answers)

    @property
    def listeners(self) -> Sequence[GenerationListener]:
        """Whose answers are being generated."""
        return [answer.sequence.listener for answer in self._answers]

    def add(self, listeners: Sequence[GenerationListener]) -> None:
        """Read the prompts of more answers, and generate the first token of each.

        Those of one length are read together, and join unless their forward pass, their sampling
        or one of these listeners raises.
        """
        by_length: dict[int, list[GenerationListener]] = {}
        for listener in listeners:
            by_length.setdefault(listener.prompt.length, []).append(listener)
        for group in by_length.values():
            new = [self._start_answer(listener) for listener in group]
            logits = self._batch.prefill([listener.prompt for listener in group])
            try:
                for answer, token in zip(new, _choose_tokens(new, logits), strict=True):
                    answer.sequence.add_token(token)
            except BaseException:
                for _ in new:
                    self._batch.remove(len(self._batch.lengths) - 1)
                raise
            self._answers.extend(new)
            self._remove_finished()

    def _start_answer(self, listener: GenerationListener) -> _Answer:
        recording = None
        if listener.wants_trace:
            recording = SequenceRecord(self._adapter, listener.prompt, self._windows)
        return _Answer(
            AnswerSequence(self._adapter, listener, recording),
            recording,
            TokenSampler(listener.sampling_params, self._adapter, listener.prompt),
            build_logits_processors(self._adapter, listener.prompt),
        )

    def step(self) -> Sequence[tuple[GenerationListener, Exception]]:
        """Generate one more token of every answer.

        Returns:
            The listeners that raised an exception, and that one; their answers have ended.
        """
        if not self._answers:
            return ()
        # The last token of an answer is read too, which completes what is recorded of it.
        token_ids = [answer.sequence.token_ids[-1] for answer in self._answers]
        recorded = any(answer.record is not None for answer in self._answers)
        step = self._recorder.start_step() if recorded else None
        try:
            logits = self._batch.step(torch.tensor(token_ids, device=self._adapter.device))
        finally:
            self._recorder.end_step()
        for index, answer in enumerate(self._answers):
            if step is not None and answer.record is not None:
                answer.record.add(step, index)
        failed = []
        tokens = _choose_tokens(self._answers, logits)
        for answer, token in zip(self._answers, tokens, strict=True):
            try:
                answer.sequence.add_token(token)
            except Exception as error:
                answer.sequence.finished = True
                failed.append((answer.sequence.listener, error))
        self._remove_finished()
        return failed

    def _remove_finished(self) -> None:
        for index in reversed(range(len(self._answers))):
            answer = self._answers[index]
            if not answer.sequence.finished:
                continue
            if answer.record is not None:
                # Steps may still be asked for their traces.
                answer.record.complete_block()
            self._batch.remove(index)
            self._answers[index] = self._answers[-1]
            self._answers.pop()


def _choose_tokens(answers: Sequence[_Answer], logits: Tensor) -> list[int]:
    """Return the next token of each answer, given the (B, V) logits."""
    logits = logits.float()
    if all(answer.sampler.is_greedy and not answer.processors for answer in answers):
        tokens: list[int] = logits.argmax(-1).tolist()
        return tokens
    return [answer.choose_token(row) for answer, row in zip(answers, logits, strict=True)]
