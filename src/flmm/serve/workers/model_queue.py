"""One model, one thread that runs it, and a bounded queue of those who want it."""

import logging
import math
import threading
import time
from collections import deque

import torch

from flmm.serve.workers.events import Failed
from flmm.serve.workers.job import Job, Slot, Workshop

_TOKENS_TOGETHER = 32_768
"""Of the padded prompts of all requests that are answered at once: their memory."""
_LOOK_AGAIN_SECONDS = 0.01
_log = logging.getLogger("flmm.serve")


class Busy(Exception):  # noqa: N818 - the client only came at a bad time
    """The queue is full."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"come again in {seconds} seconds")
        self.seconds = seconds


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
