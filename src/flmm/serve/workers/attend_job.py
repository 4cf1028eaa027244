"""Where the model looks with its words, one request after the other."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from PIL import Image

from flmm.grounding.attention_view import attend
from flmm.serve.workers.events import AttendFinished, EventCallback
from flmm.serve.workers.job import Job, Slot, WorkerContext
from flmm.stopwatch import Stopwatch


@dataclass(frozen=True)
class AttendInputs:
    """What is looked at, and with which words."""

    picture: Image.Image
    question: str
    words: Sequence[str] | None
    """None for all."""
    answer: str | None
    """None lets the model say its own."""
    max_new_tokens: int


class AttendJob(Job):
    """One request's words. A look that has begun is not stopped."""

    def __init__(
        self, inputs: AttendInputs, slot: Slot, on_event: EventCallback, stopwatch: Stopwatch
    ) -> None:
        super().__init__(slot, on_event, stopwatch)
        self._inputs = inputs

    @classmethod
    def run_batch(cls, jobs: Sequence[Self], context: WorkerContext) -> None:
        for job in jobs:
            job.run_guarded(partial(job._run, context), context.metrics)

    def _run(self, context: WorkerContext) -> None:
        self.stopwatch.timings["queue"] = time.perf_counter() - self.slot.admitted_at
        look = self._inputs
        found = attend(
            context.pipeline,
            look.picture,
            look.question,
            look.words,
            look.answer,
            look.max_new_tokens,
        )
        self.stopwatch.timings.update(found.timings)
        self.finish(AttendFinished(found, self.stopwatch.timings), context.metrics)
