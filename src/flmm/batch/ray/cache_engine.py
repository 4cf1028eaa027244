"""The feature cache of a training filled by actors on a Ray cluster."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class _Outcome:
    """What became of a picture, and what an actor said meanwhile of it or of others."""

    picture: CachedPicture
    messages: tuple[str, ...] = ()


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
            items_per_last_block=PICTURES_PER_BLOCK,
        )
        outcomes = _pass_messages_on(do_on_actors(digests, work), job.on_message)
        return job.count(digests, outcomes, on_progress)


def _pass_messages_on(
    outcomes: Iterable[Sequence[_Outcome]], on_message: Callable[[str], None]
) -> Iterator[list[CachedPicture]]:
    """Yield what became of pictures; each message, which many actors may send, is said once."""
    said: set[str] = set()
    for some in outcomes:
        for message in (message for outcome in some for message in outcome.messages):
            if message not in said:
                said.add(message)
                on_message(message)
        yield [outcome.picture for outcome in some]


def _start(job: CacheJob, folder: str) -> Callable[[Sequence[str]], Sequence[_Outcome]]:
    enter_folder(folder)
    # What an actor prints is in Ray's logs alone.
    messages: list[str] = []
    filler = CacheFiller(job.settings, job.base_folder, messages.append)

    def fill(digests: Sequence[str]) -> Sequence[_Outcome]:
        outcomes = [_Outcome(picture) for some in filler.fill(digests) for picture in some]
        outcomes[0] = replace(outcomes[0], messages=tuple(messages))
        messages.clear()
        return outcomes

    return fill


def _give_up(digest: str) -> _Outcome:
    message = f"a picture was skipped: the process that worked on it ended each time ({digest})"
    return _Outcome(CachedPicture.UNREADABLE, (message,))
