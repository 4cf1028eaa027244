"""The thread that runs the model, and the bounded queue of its jobs."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence

import torch

from flmm.serve.workers.events import JobFailed
from flmm.serve.workers.job import Job, Slot, WorkerContext

_MAX_BATCH_TOKENS = 32_768
"""Of a batch, as if all were as long as the longest: limits its memory."""
_POLL_SECONDS = 0.01
_log = logging.getLogger("flmm.serve")


class QueueFullError(Exception):
    """No slot is free; ``retry_after`` estimates in how many seconds one will be."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"come again in {retry_after} seconds")
        self.retry_after = retry_after


class ModelQueue:
    """Runs jobs; those that wait at the same time and are of one type run in one batch.

    Others of that type can join it (``take_joining``).

    Args:
        context: for the jobs.
        capacity: the most requests that are served or wait.
        max_batch_size: the most jobs in a batch.
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
        """Moving average of a batch's duration."""
        self._num_joined = 0
        """The jobs that joined the batch that runs."""
        self._thread = threading.Thread(target=self._run_loop, name="flmm-model", daemon=True)
        self._thread.start()

    def admit(self) -> Slot:
        """Return a slot for a request.

        Raises:
            QueueFullError: all slots are taken.
        """
        with self._changed:
            if self.num_admitted >= self.capacity or self.is_closing:
                num_batches = math.ceil(self.num_admitted / self._max_batch_size)
                seconds = math.ceil(num_batches * self._batch_seconds)
                raise QueueFullError(min(max(seconds, 1), 60))
            self._change_num_admitted(1)
        return Slot(self._release_slot)

    def _release_slot(self) -> None:
        with self._changed:
            self._change_num_admitted(-1)

    def _change_num_admitted(self, change: int) -> None:
        self.num_admitted += change
        self.context.metrics.admitted_requests.set(self.num_admitted)

    def put(self, job: Job) -> None:
        """Queue a job."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Cancel a job; a chat that runs stops after its current token."""
        job.is_cancelled = True
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
        job.finish(None, self.context.metrics)

    def close(self) -> None:
        """Admit no more requests, finish the queued jobs and stop both threads."""
        with self._changed:
            self.is_closing = True
            self._changed.notify()
        self._thread.join()
        self.context.mask_batcher.close()

    def _run_loop(self) -> None:
        while jobs := self._next_batch():
            began = time.perf_counter()
            self._num_joined = 0
            self._run(jobs)
            # Of a batch that others joined, the part that as many as run together took.
            share = min(self._max_batch_size / (len(jobs) + self._num_joined), 1)
            seconds = (time.perf_counter() - began) * share
            self._batch_seconds += 0.2 * (seconds - self._batch_seconds)

    def _run(self, jobs: Sequence[Job]) -> None:
        self.context.metrics.batch_size.observe(len(jobs))
        try:
            with torch.no_grad():
                type(jobs[0]).run_batch(jobs, self.context, self.take_joining)
        except Exception as error:
            _log.exception("a group of %d requests failed", len(jobs))
            for job in jobs:
                job.finish(JobFailed(error), self.context.metrics)

    def take_joining(self, running: Sequence[Job]) -> list[Job]:
        """Take the jobs that can join running ones, in the order of their arrival.

        Those of other types that come first are run here if they are short, which does not keep the
        running ones waiting for long. None overtakes a longer one, which would wait for ever.
        """
        joining: list[Job] = []
        short = self._take_short(type(running[0]))
        if short:
            self._run(short)
        with self._changed:
            while self._waiting and type(self._waiting[0]) is type(running[0]):
                together = [*running, *joining, self._waiting[0]]
                if len(together) > self._max_batch_size or not _fit_together(together):
                    break
                joining.append(self._waiting.popleft())
            self.context.metrics.waiting_requests.set(len(self._waiting))
        self._num_joined += len(joining)
        return joining

    def _take_short(self, running_type: type[Job]) -> list[Job]:
        """Take the short jobs of one other type that have waited longest."""
        short: list[Job] = []
        with self._changed:
            while self._waiting and self._waiting[0].is_short:
                job = self._waiting[0]
                if type(job) is running_type or (short and type(job) is not type(short[0])):
                    break
                if len(short) >= self._max_batch_size or not _fit_together([*short, job]):
                    break
                short.append(self._waiting.popleft())
        return short

    def _next_batch(self) -> list[Job]:
        """Return the jobs that run next; none when the queue is closed and empty."""
        with self._changed:
            while not self._waiting and not self.is_closing:
                self._changed.wait()
            # While earlier answers wait for their masks, a small batch would only add to these;
            # jobs that arrive meanwhile join it at little cost.
            while (
                len(self._waiting) < self._max_batch_size
                and self.context.mask_batcher.has_backlog
                and not self.is_closing
            ):
                self._changed.wait(_POLL_SECONDS)
            batch: list[Job] = []
            for job in list(self._waiting):
                if len(batch) >= self._max_batch_size or not _fit_together([*batch, job]):
                    break
                if not batch or type(job) is type(batch[0]):
                    batch.append(job)
                    self._waiting.remove(job)
            self.context.metrics.waiting_requests.set(len(self._waiting))
            return batch


def _fit_together(jobs: Sequence[Job]) -> bool:
    """Return whether a batch of these jobs is small enough; one alone always is."""
    longest = max(job.num_tokens for job in jobs)
    return len(jobs) == 1 or longest * len(jobs) <= _MAX_BATCH_TOKENS
