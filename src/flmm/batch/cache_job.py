"""The feature cache of a training filled as a batch: in parts, by several processes."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flmm.batch.run import BatchSummary
from flmm.train.cache_filling import CachedPicture, CacheFiller, find_cache_folder
from flmm.train.settings import TrainingSettings


@dataclass(frozen=True)
class CacheJob:
    """Which cache is filled, and which part of it."""

    settings: TrainingSettings
    base_folder: Path
    """The folder that relative paths of data start from."""
    on_message: Callable[[str], None]
    """As in ``CacheFiller``; pickled where there are several processes."""
    shard: tuple[int, int] = (0, 1)
    """(I, N): every Nth picture by its digest."""

    def run_alone(self, on_progress: Callable[[BatchSummary], None]) -> tuple[BatchSummary, Path]:
        """Load the models and fill this part of the cache.

        Returns:
            The summary, in which failures are pictures that cannot be read, and the cache's folder.

        Raises:
            InputError: as ``CacheFiller`` does.
        """
        filler = CacheFiller(self.settings, self.base_folder, self.on_message)
        digests = self.take_part(filler.digests)
        return self.count(digests, filler.fill(digests), on_progress)

    def take_part(self, digests: Iterable[str]) -> list[str]:
        """Return those that are in this job's part."""
        part, num_parts = self.shard
        return [digest for digest in digests if int(digest, 16) % num_parts == part]

    def count(
        self,
        digests: Sequence[str],
        outcomes: Iterable[Sequence[CachedPicture]],
        on_progress: Callable[[BatchSummary], None],
    ) -> tuple[BatchSummary, Path]:
        """Return what ``run_alone`` does.

        Args:
            digests: of this part's pictures.
            outcomes: of them, as ``CacheFiller.fill`` yields them.
            on_progress: called after each of these.
        """
        folder = find_cache_folder(self.settings)
        counts: Counter[CachedPicture] = Counter()

        def summarise() -> BatchSummary:
            new, failed = counts[CachedPicture.NEW], counts[CachedPicture.UNREADABLE]
            done = counts[CachedPicture.THERE] + new
            return BatchSummary(len(digests), new, failed, done, changed=0, gone=None)

        for outcome in outcomes:
            counts.update(outcome)
            on_progress(summarise())
        return summarise(), folder

    def split(self, number: int, count: int) -> "CacheJob":
        """Return the ``number``-th of ``count`` parts of this job."""
        part, num_parts = self.shard
        return replace(self, shard=(part + number * num_parts, num_parts * count))

    def on_gpu(self, number: int) -> "CacheJob":
        """Return the job for a process that uses one GPU alone, which becomes "cuda" in it.

        ``CUDA_VISIBLE_DEVICES`` would come too late, since CUDA has read it when GPUs are counted.
        """
        if self.settings.device in (None, "cuda"):
            torch.cuda.set_device(number)
        return self
