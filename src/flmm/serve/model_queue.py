"""One model, one thread that runs it, and a bounded queue of those who want it."""

import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from flmm.pipeline import Pipeline
from flmm.serve.events import Event, Failed, Last
from flmm.serve.mask_desk import MaskDesk
from flmm.serve.metrics import Metrics
from flmm.stopwatch import Stopwatch

_TOKENS_TOGETHER = 32_768
"""Of the padded prompts of all requests that are answered at once: their memory."""
_LOOK_AGAIN_SECONDS = 0.01
_log = logging.getLogger("flmm.serve")


@dataclass(frozen=True)
class Workshop:
    """What the model's threads work with."""

    pipeline: Pipeline
    metrics: Metrics
    desk: MaskDesk
    """So that masks are made while the model goes on to speak."""


class Busy(Exception):  # noqa: N818 - the client only came at a bad time
    """The queue is full."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"come again in {seconds} seconds")
        self.seconds = seconds


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

    def __init__(self, slot: Slot, tell: Callable[[Event], None], watch: Stopwatch) -> None:
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


class ModelQueue:
    """Runs jobs; those that wait at the same time run together where they are of one kind.

    Args:
        workshop: for the jobs.
        capacity: requests that are served or wait.
        together: requests that run at once, at most.
    """

    def __init__(self, workshop: Workshop, capacity: int, together: int) -> None:
        self.workshop = workshop
        self.capacity = capacity
        self.admitted = 0
        self.is_closing = False
        self._together = together
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._seconds = 1.0
        """What a group lately took."""
        self._thread = threading.Thread(target=self._work, name="flmm-model", daemon=True)
        self._thread.start()

    def admit(self) -> Slot:
        """A place for a request.

        Raises:
            Busy: there is none.
        """
        with self._changed:
            if self.admitted >= self.capacity or self.is_closing:
                groups = math.ceil(self.admitted / self._together)
                raise Busy(min(max(math.ceil(groups * self._seconds), 1), 60))
            self._count(1)
        return Slot(self._leave)

    def _leave(self) -> None:
        with self._changed:
            self._count(-1)

    def _count(self, change: int) -> None:
        self.admitted += change
        self.workshop.metrics.admitted.set(self.admitted)

    def put(self, job: Job) -> None:
        """Lets a job run as soon as it can."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Nobody waits for the job any more: it stops with the token that it is at."""
        job.cancelled = True
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
        job.end(None, self.workshop.metrics)

    def close(self) -> None:
        """Lets nobody in any more, and comes back when all who are in are done."""
        with self._changed:
            self.is_closing = True
            self._changed.notify()
        self._thread.join()
        self.workshop.desk.close()

    def _work(self) -> None:
        while jobs := self._next_group():
            began = time.perf_counter()
            self.workshop.metrics.together.observe(len(jobs))
            try:
                with torch.no_grad():
                    type(jobs[0]).run_together(jobs, self.workshop)
            except Exception as error:
                _log.exception("a group of %d requests failed", len(jobs))
                for job in jobs:
                    job.end(Failed(error), self.workshop.metrics)
            self._seconds += 0.2 * (time.perf_counter() - began - self._seconds)

    def _next_group(self) -> list[Job]:
        """The jobs that run next; none when the queue is closed and empty."""
        with self._changed:
            while not self._waiting and not self.is_closing:
                self._changed.wait()
            # While earlier answers wait for their masks, a small group would only make more of
            # them wait; those that come meanwhile cost little more than it does.
            while (
                len(self._waiting) < self._together
                and self.workshop.desk.is_behind
                and not self.is_closing
            ):
                self._changed.wait(_LOOK_AGAIN_SECONDS)
            group: list[Job] = []
            longest = 1
            for job in list(self._waiting):
                longest = max(longest, job.length)
                fits = len(group) < self._together and (
                    not group or longest * (len(group) + 1) <= _TOKENS_TOGETHER
                )
                if not fits:
                    break
                if not group or type(job) is type(group[0]):
                    group.append(job)
                    self._waiting.remove(job)
            self.workshop.metrics.waiting.set(len(self._waiting))
            return group
