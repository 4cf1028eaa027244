"""Jobs that compute the attention maps of words, one request after the other."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from PIL import Image

from flmm.grounding.attention_view import attend
from flmm.serve.workers.events import AttendFinished, EventCallback
from flmm.serve.workers.job import Job, Slot, TakeJoining, WorkerContext
from flmm.stopwatch import Stopwatch


@dataclass(frozen=True)
class AttendInputs:
    """A picture, a question about it, and the words whose attention is computed."""

    picture: Image.Image
    question: str
    words: Sequence[str] | None
    """None for all words of the answer."""
    answer: str | None
    """None lets the model generate one."""
    max_new_tokens: int


class AttendJob(Job):
    """One request's attention maps. Once it runs, it is not stopped."""

    def __init__(
        self, inputs: AttendInputs, slot: Slot, on_event: EventCallback, stopwatch: Stopwatch
    ) -> None:
        super().__init__(slot, on_event, stopwatch)
        self._inputs = inputs

    @classmethod
    def run_batch(
        cls, jobs: Sequence[Self], context: WorkerContext, _take_joining: TakeJoining
    ) -> None:
        for job in jobs:
            job.run_guarded(partial(job._run, context), context.metrics)

    def _run(self, context: WorkerContext) -> None:
        self.stopwatch.timings["queue"] = time.perf_counter() - self.slot.admitted_at
        inputs = self._inputs
        view = attend(
            context.pipeline,
            inputs.picture,
            inputs.question,
            inputs.words,
            inputs.answer,
            inputs.max_new_tokens,
        )
        self.stopwatch.timings.update(view.timings)
        self.finish(AttendFinished(view, self.stopwatch.timings), context.metrics)
