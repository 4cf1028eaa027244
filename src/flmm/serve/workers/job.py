"""The base class of the jobs that the model queue runs, and what it gives them."""

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
    """What the model's threads work with."""

    pipeline: Pipeline
    metrics: Metrics
    mask_batcher: MaskBatcher
    """So that masks are made while the model goes on to speak."""


class Slot:
    """A place among the requests that are served or wait; given back once."""

    def __init__(self, on_release: Callable[[], None]) -> None:
        self.admitted_at = time.perf_counter()
        self._on_release: Callable[[], None] | None = on_release

    def release(self) -> None:
        """Lets another request in."""
        give_back, self._on_release = self._on_release, None
        if give_back is not None:
            give_back()


def _ignore_event(_event: JobEvent) -> None:
    """Hears the events of a job that has ended."""


class Job(ABC):
    """A request, ready for the model.

    Args:
        slot: given back when the job is done.
        tell: takes its events; called from any thread.
        watch: is told of every stage.
    """

    num_tokens: int = 1
    """Tokens of its longest sequence."""

    def __init__(self, slot: Slot, on_event: EventCallback, stopwatch: Stopwatch) -> None:
        self.slot = slot
        self.stopwatch = stopwatch
        self.is_cancelled = False
        """Nobody waits for it any more; set from any thread."""
        self._on_event = on_event
        self._finish_lock = threading.Lock()

    @classmethod
    @abstractmethod
    def run_batch(cls, jobs: Sequence[Self], context: WorkerContext) -> None:
        """Runs the LMM for all of them; whatever happens, each is ended, now or by the mask
        desk."""

    def emit(self, event: JobEvent) -> None:
        """Hands an event on, unless nobody waits."""
        if not self.is_cancelled:
            self._on_event(event)

    def finish(self, event: FinalEvent | None, metrics: Metrics) -> None:
        """The last event, or none where nobody waits; only the first call counts."""
        if not self._finish_lock.acquire(blocking=False):
            return
        metrics.request_seconds.observe(time.perf_counter() - self.slot.admitted_at)
        # Who hears of the end may ask again at once, and shall find a place.
        self.slot.release()
        if event is not None:
            self.emit(event)
        # Who listens holds the job: without this, its tensors would wait for the garbage collector.
        self._on_event = _ignore_event

    def run_guarded(self, work: Callable[[], None], metrics: Metrics) -> None:
        """Does a part of the job; a failure is this job's alone."""
        if self.is_cancelled:
            self.finish(None, metrics)
            return
        try:
            with torch.no_grad():
                work()
        except Exception as error:
            self.finish(JobFailed(error), metrics)
