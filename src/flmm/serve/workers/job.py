"""The base class of the jobs that the model queue runs, and what they run with."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from flmm.grounding.pipeline import Pipeline
from flmm.serve.metrics import Metrics
from flmm.serve.workers.events import EventCallback, FinalEvent, JobEvent, JobFailed
from flmm.serve.workers.mask_batcher import MaskBatcher
from flmm.stopwatch import Stopwatch


@dataclass(frozen=True)
class WorkerContext:
    """What jobs run with."""

    pipeline: Pipeline
    metrics: Metrics
    mask_batcher: MaskBatcher
    """Predicts masks while the LMM goes on generating."""


class Slot:
    """A request's place among those that are served or wait."""

    def __init__(self, on_release: Callable[[], None]) -> None:
        self.admitted_at = time.perf_counter()
        self._on_release: Callable[[], None] | None = on_release

    def release(self) -> None:
        """Give the place to another request; only the first call counts."""
        on_release, self._on_release = self._on_release, None
        if on_release is not None:
            on_release()


TakeJoining = Callable[[Sequence["Job"]], Sequence["Job"]]
"""From the jobs that run to those of the same type that waited and run with them from now on."""


def _ignore_event(_event: JobEvent) -> None:
    """Ignore the events of a job that has ended."""


class Job(ABC):
    """A request, ready for the model.

    Args:
        slot: released when the job ends.
        on_event: called with its events, from any thread.
        stopwatch: times its stages.
    """

    num_tokens: int = 1
    """Tokens of its longest sequence."""
    is_short: bool = False
    """Whether one forward pass does, for which answers that are being generated can wait."""

    def __init__(self, slot: Slot, on_event: EventCallback, stopwatch: Stopwatch) -> None:
        self.slot = slot
        self.stopwatch = stopwatch
        self.is_cancelled = False
        """Whether nobody waits for it any more; set from any thread."""
        self._on_event = on_event
        self._finish_lock = threading.Lock()

    @classmethod
    @abstractmethod
    def run_batch(
        cls, jobs: Sequence[Self], context: WorkerContext, take_joining: TakeJoining
    ) -> None:
        """Run the LMM for all jobs; each one is finished in any case, here or by the mask batcher.

        Args:
            jobs: that begin together.
            context: what they run with.
            take_joining: called between steps, for jobs that can join.
        """

    def emit(self, event: JobEvent) -> None:
        """Pass an event on, unless the job is cancelled."""
        if not self.is_cancelled:
            self._on_event(event)

    def finish(self, event: FinalEvent | None, metrics: Metrics) -> None:
        """End the job with its last event, None if it is cancelled; only the first call counts."""
        if not self._finish_lock.acquire(blocking=False):
            return
        metrics.request_seconds.observe(time.perf_counter() - self.slot.admitted_at)
        # Before the event: its receiver may send the next request at once, and needs a slot.
        self.slot.release()
        if event is not None:
            self.emit(event)
        # Breaks a reference cycle, so that the job's tensors are freed at once.
        self._on_event = _ignore_event

    def run_guarded(self, work: Callable[[], None], metrics: Metrics) -> None:
        """Run a part of the job; an exception ends this job only."""
        if self.is_cancelled:
            self.finish(None, metrics)
            return
        try:
            with torch.no_grad():
                work()
        except Exception as error:
            self.finish(JobFailed(error), metrics)
