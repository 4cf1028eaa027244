"""Several processes that do a batch, without models."""

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import Queue
from pathlib import Path

import pytest

from flmm.batch import workers
from flmm.batch.cache_job import CacheJob
from flmm.batch.job import BatchJob
from flmm.batch.run import BatchSummary
from flmm.batch.settings import BatchSettings
from flmm.train.settings import TrainingSettings

SUMMARY = BatchSummary(items=1, new=1, failed=0, done=1, changed=0, gone=None)


def work_and_crash(
    job: BatchJob,
    number: int,
    _num_workers: int,
    messages: "Queue[tuple[int, BatchSummary, Path]]",
) -> None:
    """Report results; the first worker then crashes, while the second is still at work."""
    time.sleep(number)
    messages.put((number, SUMMARY, job.out))
    messages.close()
    messages.join_thread()
    os._exit(0 if number else 3)


@pytest.mark.parametrize("thread", ["main", "other"])
def test_a_worker_that_crashes_after_its_work_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, thread: str
) -> None:
    # Without models, workers need not import everything anew.
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr("multiprocessing.get_context", lambda _: context)
    monkeypatch.setattr(workers, "_work", work_and_crash)
    monkeypatch.setattr(workers, "_SECONDS_BETWEEN_LOOKS", 0.1)
    job = BatchJob("pictures", Path("results"), BatchSettings())
    if thread == "main":
        summary, place = workers.run_workers(job, 2)
    else:
        with ThreadPoolExecutor() as threads:
            summary, place = threads.submit(workers.run_workers, job, 2).result()
    assert (summary.new, place) == (2, Path("results"))


@pytest.mark.parametrize(("device", "chosen"), [(None, [1]), ("cuda", [1]), ("cpu", [])])
def test_each_worker_that_fills_a_cache_has_a_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str | None, chosen: list[int]
) -> None:
    gpus: list[int] = []
    monkeypatch.setattr("torch.cuda.set_device", gpus.append)
    CacheJob(TrainingSettings.model_construct(device=device), Path(), print).on_gpu(1)
    assert gpus == chosen
