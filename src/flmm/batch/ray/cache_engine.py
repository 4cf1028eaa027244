"""The feature cache of a training filled by actors on a Ray cluster."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from flmm.batch.cache_job import CacheJob
from flmm.batch.ray.cluster import ActorPool, connect, enter_folder, plan_actor
from flmm.batch.ray.rounds import ActorWork, do_on_actors
from flmm.batch.run import BatchSummary
from flmm.train.cache_filling import (
    PICTURES_PER_BLOCK,
    CachedPicture,
    CacheFiller,
    find_cache_folder,
    list_pictures,
)


def fill_cache_on_ray(
    job: CacheJob, pool: ActorPool, on_progress: Callable[[BatchSummary], None]
) -> tuple[BatchSummary, Path]:
    """Fill a cache, in a folder that all nodes share, with actors on a Ray cluster.

    Each writes the features that it makes; they do not go through Ray.

    Args:
        job: what is done.
        pool: of the actors.
        on_progress: called when features are on the disk.

    Returns:
        As ``CacheJob.run_alone``.

    Raises:
        InputError: as ``CacheJob.run_alone`` does, or there is no such cluster.
    """
    find_cache_folder(job.settings)
    digests = job.take_part(list_pictures(job.settings, job.base_folder))
    with connect(pool):
        work = ActorWork(
            start=partial(_start, job, os.getcwd()),
            give_up=_give_up,
            pool=pool,
            resources=plan_actor(pool, job.settings.device),
            items_per_block=PICTURES_PER_BLOCK,
        )
        return job.count(digests, do_on_actors(digests, work), on_progress)


def _start(job: CacheJob, folder: str) -> Callable[[Sequence[str]], Sequence[CachedPicture]]:
    enter_folder(folder)
    filler = CacheFiller(job.settings, job.base_folder, job.on_message)

    def fill(digests: Sequence[str]) -> Sequence[CachedPicture]:
        return [outcome for some in filler.fill(digests) for outcome in some]

    return fill


def _give_up(_: str) -> CachedPicture:
    return CachedPicture.UNREADABLE
