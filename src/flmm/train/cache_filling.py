"""The feature cache filled ahead of training, by as many processes as there are."""

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path

from flmm.data.sources import read_sources
from flmm.errors import InputError
from flmm.progress import no_progress
from flmm.train.feature_cache import CacheKey, FeatureCache, digest_sample, fill_cache
from flmm.train.preparation import create_accelerator, prepare_training
from flmm.train.settings import TrainingSettings

PICTURES_PER_BLOCK = 64
"""Asked for together, they make one shard."""


class CachedPicture(Enum):
    """What became of a picture that the cache should have."""

    THERE = "there"
    """It was there before."""
    NEW = "new"
    UNREADABLE = "unreadable"


def list_pictures(settings: TrainingSettings, base_folder: Path) -> list[str]:
    """Return the digests of the pictures that a run's cache should have, each once.

    Args:
        settings: of the run.
        base_folder: the folder that relative paths of data start from.

    Raises:
        InputError: the data cannot be read.
    """
    samples = (
        sample
        for part in (settings.train, settings.validation)
        for samples in read_sources(part, base_folder).values()
        for sample in samples
    )
    return list(dict.fromkeys(map(digest_sample, samples)))


class CacheFiller:
    """The frozen models of a run, which fill its cache.

    Args:
        settings: of the run.
        base_folder: the folder that relative paths of data start from.
        on_message: called with a line for each skipped picture or text and damaged cache shard.

    Raises:
        InputError: the settings name no cache, or data, models or cache cannot be used.
    """

    def __init__(
        self, settings: TrainingSettings, base_folder: Path, on_message: Callable[[str], None]
    ) -> None:
        folder = find_cache_folder(settings)
        prepared = prepare_training(
            settings, base_folder, create_accelerator(settings), on_message, no_progress
        )
        precision = settings.cache_precision
        key = CacheKey.build(prepared.extractor, settings.protocol, precision)
        self._cache = FeatureCache(folder, key, precision, on_message, no_progress)
        self._datasets = list(prepared.datasets.values())
        self._places = {
            digest_sample(sample): (dataset, index)
            for dataset in self._datasets
            for index, sample in enumerate(dataset.samples)
        }
        self.digests = list(self._places)
        """Of all pictures that the cache should have."""

    def fill(self, digests: Sequence[str]) -> Iterator[list[CachedPicture]]:
        """Add pictures that are not there, a shard at a time.

        Yields:
            What became of so many of them, in their order.

        Raises:
            InputError: the cache cannot be written.
        """
        for first in range(0, len(digests), PICTURES_PER_BLOCK):
            block = digests[first : first + PICTURES_PER_BLOCK]
            missing = {
                digest: self._places[digest] for digest in block if digest not in self._cache
            }
            for dataset in {id(dataset): dataset for dataset, _ in missing.values()}.values():
                indices = [index for one, index in missing.values() if one is dataset]
                for _ in fill_cache(self._cache, dataset, indices):
                    pass
            yield [self._describe(digest, digest in missing) for digest in block]

    def _describe(self, digest: str, was_missing: bool) -> CachedPicture:
        if not was_missing:
            return CachedPicture.THERE
        return CachedPicture.NEW if digest in self._cache else CachedPicture.UNREADABLE


def find_cache_folder(settings: TrainingSettings) -> Path:
    """Return the folder of a run's cache.

    Raises:
        InputError: the settings name none.
    """
    if settings.cache is None:
        raise InputError("the settings name no cache; give --cache DIR, or cache in the file")
    return settings.cache
