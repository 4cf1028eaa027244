"""A batch whose models are on a Ray cluster; results are stored here."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import ray

from flmm.batch.answering import TaskAnswerer
from flmm.batch.job import BatchJob, ModelDescription
from flmm.batch.ray.cluster import ActorPool, ActorResources, connect, enter_folder, plan_actor
from flmm.batch.ray.rounds import ActorWork, do_on_actors
from flmm.batch.run import BatchSummary, answer_items
from flmm.batch.sources.items import Item
from flmm.batch.storage.manifest import describe_difference
from flmm.batch.storage.records import Record
from flmm.errors import InputError, first_line

_BATCHES_PER_BLOCK = 4


def run_on_ray(
    job: BatchJob,
    pool: ActorPool,
    on_progress: Callable[[BatchSummary], None] = lambda _: None,
) -> tuple[BatchSummary, Path]:
    """Do a job with actors on a Ray cluster.

    The nodes read models and pictures under the job's names, and draw overlays; this process alone
    reads and writes results.

    Args:
        job: what is done.
        pool: of the actors.
        on_progress: called when results are on the disk.

    Returns:
        The summary, and where the results are.

    Raises:
        InputError: as ``BatchJob.run`` does, or there is no such cluster.
    """
    with connect(pool):
        resources = plan_actor(pool, job.models.device)
        description = _describe_models(job, resources)
        work = ActorWork(
            start=partial(_start, job, description, os.getcwd()),
            give_up=_give_up,
            pool=pool,
            resources=resources,
            items_per_block=_BATCHES_PER_BLOCK * job.together,
            items_per_last_block=job.together,
        )
        return job.store(description, partial(do_on_actors, work=work), on_progress)


def _describe_models(job: BatchJob, resources: ActorResources) -> ModelDescription:
    """Load the models on a node, to compare with those of earlier results."""
    describe = ray.remote(num_cpus=resources.num_cpus, num_gpus=resources.num_gpus)(_describe)
    try:
        description: ModelDescription = ray.get(describe.remote(job, os.getcwd()))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise InputError(
            f"the models cannot be loaded on a node of the Ray cluster ({first_line(error)})"
        ) from error
    return description


def _describe(job: BatchJob, folder: str) -> ModelDescription:
    enter_folder(folder)
    return job.describe_models()


def _start(
    job: BatchJob, expected: ModelDescription, folder: str
) -> Callable[[Sequence[Item]], Sequence[Record]]:
    enter_folder(folder)
    grounder = job.models.load()
    difference = describe_difference(expected.settings, job.settings.describe(grounder))
    if difference:
        raise InputError(f"the models of this node are not those of another: {difference}")
    answerer = TaskAnswerer(grounder, job.settings, job.together)

    def answer(items: Sequence[Item]) -> Sequence[Record]:
        records = {
            record.id: record
            for some in answer_items(answerer, items, job.save_overlays)
            for record in some
        }
        return [records[item.id] for item in items]

    return answer


def _give_up(item: Item) -> Record:
    return Record.of(item, {"error": "the process that worked on it ended each time"})
