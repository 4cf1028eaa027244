"""Jobs that ground given texts, phrases or captions, in one batch with those of other requests."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from PIL import Image

from flmm.answers.phrase import Phrase
from flmm.attention.trace import Trace, TracedPhrase
from flmm.attention.tracing import trace_texts
from flmm.grounding.mask_options import MaskOptions
from flmm.grounding.mask_predictor import MaskMethod
from flmm.lmm.prompt import Prompt
from flmm.serve.workers.events import AnswerFinished, EventCallback, LocatedPhrase
from flmm.serve.workers.job import Job, Slot, TakeJoining, WorkerContext
from flmm.serve.workers.mask_batcher import MaskTask
from flmm.stopwatch import Stopwatch

_SEQUENCES_PER_BATCH = 16


@dataclass(frozen=True)
class GivenTextInputs:
    """A picture and texts about it, each as the answer of a prompt."""

    picture: Image.Image
    prompts: Sequence[Prompt]
    extract: Callable[[Sequence[Trace]], tuple[str, Sequence[TracedPhrase]]]
    """From the prompts' traces to the answer's text and its phrases."""
    mask_options: MaskOptions
    method: MaskMethod | None
    """None for the predictor's own."""


class GivenTextJob(Job):
    """The grounding of one request's texts."""

    def __init__(
        self, inputs: GivenTextInputs, slot: Slot, on_event: EventCallback, stopwatch: Stopwatch
    ) -> None:
        super().__init__(slot, on_event, stopwatch)
        self.num_tokens = max(prompt.length for prompt in inputs.prompts)
        self.is_short = len(inputs.prompts) <= _SEQUENCES_PER_BATCH
        self._inputs = inputs

    @classmethod
    def run_batch(
        cls, jobs: Sequence[Self], context: WorkerContext, _take_joining: TakeJoining
    ) -> None:
        began = time.perf_counter()
        for job in jobs:
            job.stopwatch.timings["queue"] = began - job.slot.admitted_at
        adapter = context.pipeline.adapter
        prompts = [prompt for job in jobs for prompt in job._inputs.prompts]
        traces: list[Trace] = []
        for first in range(0, len(prompts), _SEQUENCES_PER_BATCH):
            if all(job.is_cancelled for job in jobs):
                break
            traces.extend(trace_texts(adapter, prompts[first : first + _SEQUENCES_PER_BATCH]))
        offset = 0
        for job in jobs:
            job.stopwatch.timings["read"] = time.perf_counter() - began
            count = len(job._inputs.prompts)
            own = traces[offset : offset + count]
            job.run_guarded(partial(job._request_masks, own, context), context.metrics)
            offset += count

    def _request_masks(self, traces: Sequence[Trace], context: WorkerContext) -> None:
        inputs = self._inputs
        with self.stopwatch.stage("phrases"):
            text, traced_phrases = inputs.extract(traces)
            if inputs.method != "kmeans":
                traced_phrases = context.pipeline.mask_predictor.add_references(
                    inputs.picture, traced_phrases
                )

        def on_masks(phrases: Sequence[Phrase]) -> None:
            context.metrics.phrases.inc(len(phrases))
            located = tuple(
                LocatedPhrase(phrase, 0)
                for phrase in phrases
                if inputs.mask_options.keeps(phrase.score)
            )
            self.finish(
                AnswerFinished(text, located, "stop", 0, self.stopwatch.timings), context.metrics
            )

        context.mask_batcher.put(
            MaskTask(
                self,
                inputs.picture,
                traced_phrases,
                inputs.mask_options,
                inputs.method,
                on_masks,
            )
        )
