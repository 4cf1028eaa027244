"""A batch by several processes, each with models of its own and a part of the pictures.

Each works as if the others were on other machines, so that one that is killed costs nothing but
time.
"""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import torch

from flmm.batch.run import BatchSummary
from flmm.errors import InputError

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

_SECONDS_BETWEEN_LOOKS = 1.0

_Message = tuple[int, BatchSummary | str, Path | None]
"""Of a worker: its number, its summary or what is wrong, and at its end where results are."""


class SplittableJob(Protocol):
    """A job that several processes do, each a part; it is pickled."""

    def split(self, number: int, count: int) -> Self:
        """Return the ``number``-th of ``count`` parts of this job."""

    def on_gpu(self, number: int) -> Self:
        """Return the job for a process that uses one GPU alone."""

    def run_alone(self, on_progress: Callable[[BatchSummary], None]) -> tuple[BatchSummary, Path]:
        """Load the models, do the job, and return its summary and where the results are.

        Raises:
            InputError: it cannot be done.
        """


def run_workers(
    job: SplittableJob,
    num_workers: int,
    on_progress: Callable[[BatchSummary], None] = lambda _: None,
) -> tuple[BatchSummary, Path]:
    """Do a job with several processes.

    Args:
        job: its results go to a folder.
        num_workers: that many GPUs at least, or they share them; without a GPU, they share the
            processor's cores.
        on_progress: called with the summary of all.

    Returns:
        The summary, and where the results are.

    Raises:
        InputError: a worker raised it, or was killed; the others have done their parts.
    """
    context = multiprocessing.get_context("spawn")
    messages: Queue[_Message] = context.Queue()
    workers = [
        context.Process(
            target=_work, args=(job.split(number, num_workers), number, num_workers, messages)
        )
        for number in range(num_workers)
    ]
    with _ignore_interrupts():
        for worker in workers:
            worker.daemon = True
            worker.start()
    summaries: dict[int, BatchSummary] = {}
    places: dict[int, Path] = {}
    errors: dict[int, str] = {}
    while len(places) + len(errors) < num_workers:
        try:
            number, content, place = messages.get(timeout=_SECONDS_BETWEEN_LOOKS)
        except queue.Empty:
            for number, worker in enumerate(workers):
                if worker.exitcode and number not in errors and number not in places:
                    errors[number] = (
                        f"worker {number} of {num_workers} ended with {_describe(worker.exitcode)};"
                        " what is there is kept: the same command goes on"
                    )
            continue
        if isinstance(content, str):
            errors[number] = content
            continue
        summaries[number] = content
        if place is not None:
            places[number] = place
        on_progress(_add(summaries))
    if errors:
        raise InputError(next(iter(errors.values())))
    return _add(summaries), places[0]


@contextmanager
def _ignore_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C in the block and, in processes that it starts, until they handle it.

    It would end a worker that still imports its modules with a traceback; the parent handles it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python sets handlers in the main thread alone.
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _work(job: SplittableJob, number: int, num_workers: int, messages: "Queue[_Message]") -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The parent ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if torch.cuda.is_available():
        job = job.on_gpu(number % torch.cuda.device_count())
    else:
        torch.set_num_threads(max(torch.get_num_threads() // num_workers, 1))
    try:
        summary, place = job.run_alone(lambda summary: messages.put((number, summary, None)))
        messages.put((number, summary, place))
    except InputError as error:
        messages.put((number, str(error), None))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _add(summaries: dict[int, BatchSummary]) -> BatchSummary:
    """Return the summary of all parts."""
    return BatchSummary(
        items=sum(one.items for one in summaries.values()),
        new=sum(one.new for one in summaries.values()),
        failed=sum(one.failed for one in summaries.values()),
        done=sum(one.done for one in summaries.values()),
        changed=sum(one.changed for one in summaries.values()),
        gone=None,
    )


def _describe(exit_code: int) -> str:
    return f"code {exit_code}" if exit_code > 0 else f"signal {-exit_code}"
