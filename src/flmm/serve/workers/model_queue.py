"""One model, one thread that runs it, and a bounded queue of those who want it."""

import logging
import math
import threading
import time
from collections import deque

import torch

from flmm.serve.workers.events import JobFailed
from flmm.serve.workers.job import Job, Slot, WorkerContext

_MAX_BATCH_TOKENS = 32_768
"""Of the padded prompts of all requests that are answered at once: their memory."""
_POLL_SECONDS = 0.01
_log = logging.getLogger("flmm.serve")


class QueueFullError(Exception):
    """The queue is full."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"come again in {retry_after} seconds")
        self.retry_after = retry_after


class ModelQueue:
    """Runs jobs; those that wait at the same time run together where they are of one kind.

    Args:
        workshop: for the jobs.
        capacity: requests that are served or wait.
        together: requests that run at once, at most.
    """

    def __init__(self, context: WorkerContext, capacity: int, max_batch_size: int) -> None:
        self.context = context
        self.capacity = capacity
        self.num_admitted = 0
        self.is_closing = False
        self._max_batch_size = max_batch_size
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._batch_seconds = 1.0
        """What a group lately took."""
        self._thread = threading.Thread(target=self._run_loop, name="flmm-model", daemon=True)
        self._thread.start()

    def admit(self) -> Slot:
        """A place for a request.

        Raises:
            Busy: there is none.
        """
        with self._changed:
            if self.num_admitted >= self.capacity or self.is_closing:
                groups = math.ceil(self.num_admitted / self._max_batch_size)
                raise QueueFullError(min(max(math.ceil(groups * self._batch_seconds), 1), 60))
            self._change_num_admitted(1)
        return Slot(self._release_slot)

    def _release_slot(self) -> None:
        with self._changed:
            self._change_num_admitted(-1)

    def _change_num_admitted(self, change: int) -> None:
        self.num_admitted += change
        self.context.metrics.admitted_requests.set(self.num_admitted)

    def put(self, job: Job) -> None:
        """Lets a job run as soon as it can."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Nobody waits for the job any more: it stops with the token that it is at."""
        job.is_cancelled = True
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
        job.finish(None, self.context.metrics)

    def close(self) -> None:
        """Lets nobody in any more, and comes back when all who are in are done."""
        with self._changed:
            self.is_closing = True
            self._changed.notify()
        self._thread.join()
        self.context.mask_batcher.close()

    def _run_loop(self) -> None:
        while jobs := self._next_batch():
            began = time.perf_counter()
            self.context.metrics.batch_size.observe(len(jobs))
            try:
                with torch.no_grad():
                    type(jobs[0]).run_batch(jobs, self.context)
            except Exception as error:
                _log.exception("a group of %d requests failed", len(jobs))
                for job in jobs:
                    job.finish(JobFailed(error), self.context.metrics)
            self._batch_seconds += 0.2 * (time.perf_counter() - began - self._batch_seconds)

    def _next_batch(self) -> list[Job]:
        """The jobs that run next; none when the queue is closed and empty."""
        with self._changed:
            while not self._waiting and not self.is_closing:
                self._changed.wait()
            # While earlier answers wait for their masks, a small group would only make more of
            # them wait; those that come meanwhile cost little more than it does.
            while (
                len(self._waiting) < self._max_batch_size
                and self.context.mask_batcher.has_backlog
                and not self.is_closing
            ):
                self._changed.wait(_POLL_SECONDS)
            group: list[Job] = []
            longest = 1
            for job in list(self._waiting):
                longest = max(longest, job.num_tokens)
                fits = len(group) < self._max_batch_size and (
                    not group or longest * (len(group) + 1) <= _MAX_BATCH_TOKENS
                )
                if not fits:
                    break
                if not group or type(job) is type(group[0]):
                    group.append(job)
                    self._waiting.remove(job)
            self.context.metrics.waiting_requests.set(len(self._waiting))
            return group
