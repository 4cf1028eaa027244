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
from flmm.serve.workers.events import Event, Failed, Last, Tell
from flmm.serve.workers.mask_batcher import MaskDesk
from flmm.stopwatch import Stopwatch


@dataclass(frozen=True)
class Workshop:
    """What the model's threads work with."""

    pipeline: Pipeline
    metrics: Metrics
    desk: MaskDesk
    """So that masks are made while the model goes on to speak."""


class Slot:
    """A place among the requests that are served or wait; given back once."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self.began = time.perf_counter()
        self._give_back: Callable[[], None] | None = give_back

    def release(self) -> None:
        """Lets another request in."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()


def _nobody(_event: Event) -> None:
    """Hears the events of a job that has ended."""


class Job(ABC):
    """A request, ready for the model.

    Args:
        slot: given back when the job is done.
        tell: takes its events; called from any thread.
        watch: is told of every stage.
    """

    length: int = 1
    """Tokens of its longest sequence."""

    def __init__(self, slot: Slot, tell: Tell, watch: Stopwatch) -> None:
        self.slot = slot
        self.watch = watch
        self.cancelled = False
        """Nobody waits for it any more; set from any thread."""
        self._tell = tell
        self._done = threading.Lock()

    @classmethod
    @abstractmethod
    def run_together(cls, jobs: Sequence[Self], workshop: Workshop) -> None:
        """Runs the LMM for all of them; whatever happens, each is ended, now or by the mask
        desk."""

    def tell(self, event: Event) -> None:
        """Hands an event on, unless nobody waits."""
        if not self.cancelled:
            self._tell(event)

    def end(self, event: Last | None, metrics: Metrics) -> None:
        """The last event, or none where nobody waits; only the first call counts."""
        if not self._done.acquire(blocking=False):
            return
        metrics.seconds.observe(time.perf_counter() - self.slot.began)
        # Who hears of the end may ask again at once, and shall find a place.
        self.slot.release()
        if event is not None:
            self.tell(event)
        # Who listens holds the job: without this, its tensors would wait for the garbage collector.
        self._tell = _nobody

    def guard(self, work: Callable[[], None], metrics: Metrics) -> None:
        """Does a part of the job; a failure is this job's alone."""
        if self.cancelled:
            self.end(None, metrics)
            return
        try:
            with torch.no_grad():
                work()
        except Exception as error:
            self.end(Failed(error), metrics)
