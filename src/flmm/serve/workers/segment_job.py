"""Phrases looked for in a picture, together with those of other requests."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from PIL import Image

from flmm.answers.answer import Phrase
from flmm.attention.trace import Trace
from flmm.attention.tracing import trace_texts
from flmm.grounding.mask_predictor import MaskMethod
from flmm.grounding.referring import referring_answer
from flmm.lmm.prompt import Prompt
from flmm.serve.workers.events import Finished, Located, Tell
from flmm.serve.workers.job import Job, Slot, Workshop
from flmm.serve.workers.mask_batcher import Order
from flmm.stopwatch import Stopwatch

_SEQUENCES_A_BATCH = 16


@dataclass(frozen=True)
class Wanted:
    """Phrases of a picture."""

    picture: Image.Image
    phrases: Sequence[str]
    prompts: Sequence[Prompt]
    """One a phrase."""
    refine: bool
    method: MaskMethod


class SegmentJob(Job):
    """One request's phrases."""

    def __init__(self, wanted: Wanted, slot: Slot, tell: Tell, watch: Stopwatch) -> None:
        super().__init__(slot, tell, watch)
        self.length = max(prompt.length for prompt in wanted.prompts)
        self._wanted = wanted

    @classmethod
    def run_together(cls, jobs: Sequence[Self], workshop: Workshop) -> None:
        began = time.perf_counter()
        for job in jobs:
            job.watch.seconds["queue"] = began - job.slot.began
        adapter = workshop.pipeline.adapter
        prompts = [prompt for job in jobs for prompt in job._wanted.prompts]
        traces: list[Trace] = []
        for first in range(0, len(prompts), _SEQUENCES_A_BATCH):
            if all(job.cancelled for job in jobs):
                break
            traces.extend(trace_texts(adapter, prompts[first : first + _SEQUENCES_A_BATCH]))
        done = 0
        for job in jobs:
            job.watch.seconds["read"] = time.perf_counter() - began
            count = len(job._wanted.prompts)
            job._order_masks(traces[done : done + count], workshop)
            done += count

    def _order_masks(self, traces: Sequence[Trace], workshop: Workshop) -> None:
        wanted = self._wanted
        text, said = referring_answer(wanted.phrases, traces)

        def take(found: Sequence[Phrase]) -> None:
            workshop.metrics.phrases.inc(len(found))
            located = tuple(Located(phrase, 0) for phrase in found)
            self.end(Finished(text, located, "stop", 0, self.watch.seconds), workshop.metrics)

        workshop.desk.put(Order(self, wanted.picture, said, wanted.refine, wanted.method, take))
