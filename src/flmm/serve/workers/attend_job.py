"""Where the model looks with its words, one request after the other."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from PIL import Image

from flmm.grounding.attention_view import attend
from flmm.serve.workers.events import Attended, Tell
from flmm.serve.workers.job import Job, Slot, Workshop
from flmm.stopwatch import Stopwatch


@dataclass(frozen=True)
class Look:
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

    def __init__(self, look: Look, slot: Slot, tell: Tell, watch: Stopwatch) -> None:
        super().__init__(slot, tell, watch)
        self._look = look

    @classmethod
    def run_together(cls, jobs: Sequence[Self], workshop: Workshop) -> None:
        for job in jobs:
            job.guard(partial(job._run, workshop), workshop.metrics)

    def _run(self, workshop: Workshop) -> None:
        self.watch.seconds["queue"] = time.perf_counter() - self.slot.began
        look = self._look
        found = attend(
            workshop.pipeline,
            look.picture,
            look.question,
            look.words,
            look.answer,
            look.max_new_tokens,
        )
        self.watch.seconds.update(found.timings)
        self.end(Attended(found, self.watch.seconds), workshop.metrics)
