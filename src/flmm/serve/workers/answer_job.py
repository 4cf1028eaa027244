"""Jobs whose answers are generated together; each joins and leaves at any step."""

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Self, cast

from torch import Tensor

from flmm.attention.answer_batch import AnswerBatch
from flmm.attention.batched_tracing import trace_generation_batch
from flmm.attention.generation_step import GenerationStep
from flmm.attention.trace import Trace
from flmm.lmm.decoding.support import find_unsupported_reason
from flmm.lmm.prompt import Prompt
from flmm.lmm.sampling import SamplingParams
from flmm.serve.workers.events import EventCallback, JobFailed
from flmm.serve.workers.job import Job, Slot, TakeJoining, WorkerContext
from flmm.stopwatch import Stopwatch

_READING_SECONDS = 0.05
"""Between two steps prompts are read for so long at most, and at least one if any waits; the same
holds for the work that complete answers left to do."""


class AnswerJob(Job):
    """A request whose answer is generated: a ``GenerationListener`` of ``flmm.attention``."""

    prompt: Prompt
    max_new_tokens: int
    sampling_params: SamplingParams
    wants_trace: bool

    def __init__(self, slot: Slot, on_event: EventCallback, stopwatch: Stopwatch) -> None:
        super().__init__(slot, on_event, stopwatch)
        self.started_at = 0.0
        self.is_only_job = False
        """Whether no other answer is being generated."""
        self.work_after_answer: Callable[[], None] | None = None
        """What runs the LMM once the answer is complete; it may leave more of it here, which runs
        after the next step of the other answers."""

    @abstractmethod
    def on_step(self, step: GenerationStep) -> bool:
        """Receive a generated token; return whether to go on."""

    @abstractmethod
    def on_end(self, token_ids: Tensor, trace: Trace | None) -> None:
        """Receive the answer's (T,) tokens, and its trace if ``wants_trace``."""

    @classmethod
    def run_batch(
        cls, jobs: Sequence[Self], context: WorkerContext, take_joining: TakeJoining
    ) -> None:
        if find_unsupported_reason(context.pipeline.adapter) is None:
            _RunningAnswers(jobs, context, take_joining).run()
            return
        for job in jobs:
            job.start(len(jobs) == 1)
        trace_generation_batch(context.pipeline.adapter, jobs)
        for job in jobs:
            while job.work_after_answer is not None:
                job.run_work_after_answer(context)

    def start(self, is_only_job: bool) -> None:
        """Note that the prompt is about to be read."""
        self.started_at = time.perf_counter()
        self.is_only_job = is_only_job
        self.stopwatch.timings["queue"] = self.started_at - self.slot.admitted_at

    def run_work_after_answer(self, context: WorkerContext) -> None:
        """Run what the complete answer left to do, or the next part of it."""
        # Taken out, since it refers to its job, whose tensors are freed at once.
        work, self.work_after_answer = self.work_after_answer, None
        if work is not None:
            self.run_guarded(work, context.metrics)


class _RunningAnswers:
    """The answers that are generated now, and those whose prompts are read next."""

    def __init__(
        self, jobs: Sequence[AnswerJob], context: WorkerContext, take_joining: TakeJoining
    ) -> None:
        self._context = context
        self._take_joining = take_joining
        self._running: list[AnswerJob] = []
        self._complete: deque[AnswerJob] = deque()
        """Those whose work after the answer is not done."""
        self._waiting = deque(jobs)

    def run(self) -> None:
        """Generate all answers, and those of jobs that join meanwhile."""
        with AnswerBatch(self._context.pipeline.adapter) as batch:
            try:
                while self._waiting or self._complete or batch.num_answers:
                    self._read_prompts(batch)
                    for listener, error in batch.step():
                        cast(AnswerJob, listener).finish(JobFailed(error), self._context.metrics)
                    self._leave(batch)
                    self._work_after_answers()
                    self._join()
            except Exception as error:
                for job in (*self._running, *self._waiting, *self._complete):
                    job.finish(JobFailed(error), self._context.metrics)
                raise

    def _read_prompts(self, batch: AnswerBatch) -> None:
        began = time.perf_counter()
        while self._waiting:
            job = self._waiting.popleft()
            if job.is_cancelled:
                job.finish(None, self._context.metrics)
                continue
            job.start(not self._running and not self._waiting)
            self._running.append(job)
            try:
                batch.add([job])
            except Exception as error:
                job.finish(JobFailed(error), self._context.metrics)
            if time.perf_counter() - began > _READING_SECONDS:
                break
        self._leave(batch)

    def _leave(self, batch: AnswerBatch) -> None:
        """Let go of the jobs whose answers are complete."""
        generated = {id(listener) for listener in batch.listeners}
        self._complete.extend(
            job
            for job in self._running
            if id(job) not in generated and job.work_after_answer is not None
        )
        self._running = [job for job in self._running if id(job) in generated]

    def _work_after_answers(self) -> None:
        began = time.perf_counter()
        while self._complete:
            job = self._complete[0]
            job.run_work_after_answer(self._context)
            if job.work_after_answer is None:
                self._complete.popleft()
            if time.perf_counter() - began > _READING_SECONDS:
                break

    def _join(self) -> None:
        earlier = (*self._running, *self._waiting)
        if earlier:
            joining = cast(Sequence[AnswerJob], self._take_joining(earlier))
            self._waiting.extend(joining)
            if joining:
                self._context.metrics.batch_size.observe(len(earlier) + len(joining))
        is_only_job = len(self._running) == 1 and not self._waiting
        for job in self._running:
            job.is_only_job = is_only_job
