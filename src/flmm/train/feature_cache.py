"""A cache on disk of the training pictures' features, so that the frozen models run only once.

It is a folder of safetensors shards, each with a JSON file that lists its pictures and its
checksum, and of ``cache.json``: the models, prompts and processors that the features depend on.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import TypedDict

from flmm.atomic_write import atomic_write
from flmm.data.exchanges import ReferringProtocol
from flmm.data.features import FeatureExtractor
from flmm.data.readers.files import read_json
from flmm.data.sample import Sample
from flmm.errors import InputError
from flmm.head.weights import fingerprint_named_weights, fingerprint_weights
from flmm.lru_cache import LRUCache
from flmm.progress import ProgressCallback
from flmm.train.compression import compress_example, decompress_example
from flmm.train.dataset import TrainingExample, UncachedDataset
from flmm.train.settings import CachePrecision

KEY_FILE_NAME = "cache.json"
_FORMAT_VERSION = "2"
_PICTURES_PER_SHARD = 64
_BATCH_SIZE = 8

_Tensors = dict[str, Tensor]


class _Shard(TypedDict):
    checksum: str
    pictures: list[str]


_KEY = TypeAdapter(dict[str, str])
_SHARD = TypeAdapter(_Shard)


@dataclass(frozen=True)
class CacheKey:
    """Everything that cached features depend on, except the pictures and their texts."""

    entries: Mapping[str, str]

    @classmethod
    def build(
        cls,
        extractor: FeatureExtractor,
        protocol: ReferringProtocol,
        precision: CachePrecision,
    ) -> "CacheKey":
        """Return the key of an extractor's features."""
        adapter, config = extractor.adapter, extractor.config
        tokenizer = adapter.tokenizer
        segmenter = None if extractor.refiner is None else extractor.refiner.segmenter
        return cls(
            {
                "format": _FORMAT_VERSION,
                "LMM": adapter.name,
                "LMM's revision": str(adapter.revision),
                "LMM's weights": fingerprint_weights(adapter.model),
                "image processor": _digest(adapter.image_processor.to_dict()),
                "tokenizer": _digest(sorted(tokenizer.get_vocab().items())),
                "chat template": _digest(tokenizer.chat_template),
                "prompts": f"{config.caption_prompt!r}, {config.segment_prompt!r}",
                "protocol": protocol.value,
                "merge": config.merge,
                "maps": "all" if config.kept_maps is None else _digest(config.kept_maps),
                "keyword selector": str(config.selector),
                # SAM-HQ has SAM's encoder, but gives more of its features.
                "SAM's type": "none" if segmenter is None else segmenter.sam.config.model_type,
                "SAM's encoder": "none"
                if segmenter is None
                else fingerprint_named_weights(segmenter.encoder_weights()),
                "precision": precision.value,
            }
        )


def digest_sample(sample: Sample) -> str:
    """Return a digest of a picture's path, file size, texts and regions."""
    try:
        size = sample.picture.stat().st_size
    except OSError:
        size = -1
    return _digest((sample, size))


class FeatureCache:
    """A cache folder, opened for one key; damaged shards are left out.

    Args:
        folder: created when it is missing.
        key: what the features depend on.
        precision: of the attention maps in new shards.
        on_message: called with one line for each damaged shard.
        on_progress: called for each shard that is checked.

    Raises:
        InputError: the folder holds features for another key, or cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        key: CacheKey,
        precision: CachePrecision,
        on_message: Callable[[str], None],
        on_progress: ProgressCallback,
    ) -> None:
        self.folder = folder
        self.precision = precision
        self._open_shards: LRUCache[safe_open] = LRUCache()
        self._shard_files: dict[str, Path] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            key_file = folder / KEY_FILE_NAME
            # A filled cache may be on a file system that cannot be written.
            if not key_file.exists():
                # One of several that begin at once writes it; all compare theirs with it.
                with FileLock(folder / "key.lock"):
                    if not key_file.exists():
                        _write_text(key_file, json.dumps(dict(key.entries), indent=2))
        except OSError as error:
            raise InputError(
                f"cache {str(folder)!r} cannot be written ({error.strerror}); choose another folder"
            ) from error
        self._check_key(key)
        shards = sorted(folder.glob("*.shard.json"))
        for number, index_file in enumerate(shards):
            on_progress(number, len(shards), "checking the cache")
            self._add_shard(index_file, on_message)

    def __contains__(self, digest: str) -> bool:
        return digest in self._shard_files

    def _check_key(self, key: CacheKey) -> None:
        stored = read_json(self.folder / KEY_FILE_NAME, _KEY)
        for name in dict.fromkeys([*key.entries, *stored]):
            if stored.get(name) != key.entries.get(name):
                raise InputError(
                    f"cache {str(self.folder)!r} is stale: its {name} is {stored.get(name)!r}, now"
                    f" it is {key.entries.get(name)!r}; choose another folder or delete this one"
                )

    def _add_shard(self, index_file: Path, on_message: Callable[[str], None]) -> None:
        weights = index_file.with_name(index_file.name.replace(".shard.json", ".safetensors"))
        try:
            content = read_json(index_file, _SHARD)
            damaged = _file_digest(weights) != content["checksum"]
        except (InputError, OSError):
            damaged = True
        if damaged:
            on_message(f"cache shard {str(weights)!r} is damaged; its pictures are made anew")
            return
        self._shard_files.update(dict.fromkeys(content["pictures"], weights))

    def write_shard(self, pictures: Mapping[str, TrainingExample]) -> None:
        """Write one more shard, of pictures by their digests.

        Raises:
            InputError: it cannot be written; the other shards stay.
        """
        name = _digest(tuple(pictures))
        weights = self.folder / f"{name}.safetensors"
        tensors = {
            f"{digest}.{part}": tensor
            for digest, picture in pictures.items()
            for part, tensor in compress_example(picture, self.precision).items()
        }
        try:
            with atomic_write(weights) as path:
                save_file(tensors, path)
                checksum = _file_digest(path)
            shard: _Shard = {"checksum": checksum, "pictures": list(pictures)}
            _write_text(self.folder / f"{name}.shard.json", json.dumps(shard))
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"cache {str(self.folder)!r} cannot be written ({error}); make room and start"
                f" again: the {len(self._shard_files)} pictures in it stay"
            ) from error
        self._shard_files.update(dict.fromkeys(pictures, weights))

    def read(self, digest: str) -> TrainingExample:
        """Return the cached picture with this digest.

        Raises:
            InputError: its shard was deleted or damaged since the cache was opened.
        """
        file = self._shard_files[digest]
        try:
            shard = self._open_shards.get_or_create(
                str(file).encode(), lambda: safe_open(file, framework="pt", device="cpu")
            )
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"cache shard {str(file)!r} cannot be read any more ({error}); start again: what is"
                " missing is made anew, and training goes on from its checkpoint"
            ) from error
        prefix = f"{digest}."
        all_names: list[str] = shard.keys()  # type: ignore[no-untyped-call]
        names = [name for name in all_names if name.startswith(prefix)]
        parts = {name: shard.get_tensor(name) for name in names}  # type: ignore[no-untyped-call]
        return decompress_example({name.removeprefix(prefix): part for name, part in parts.items()})


def fill_cache(
    cache: FeatureCache, dataset: UncachedDataset, indices: Sequence[int]
) -> Iterator[int]:
    """Add the readable pictures at ``indices``; yield the number of pictures of each batch.

    Raises:
        InputError: the cache cannot be written.
    """
    pending: dict[str, TrainingExample] = {}
    for first in range(0, len(indices), _BATCH_SIZE):
        batch = indices[first : first + _BATCH_SIZE]
        for index, picture in zip(batch, dataset.get_or_none(batch), strict=True):
            if picture is not None:
                pending[digest_sample(dataset.samples[index])] = picture
        if len(pending) >= _PICTURES_PER_SHARD:
            cache.write_shard(pending)
            pending = {}
        yield len(batch)
    if pending:
        cache.write_shard(pending)


class CachedDataset:
    """A data set read from a cache; pictures that are not in the cache count as unreadable."""

    def __init__(self, cache: FeatureCache, digests: Sequence[str]) -> None:
        self.cache = cache
        self.digests = digests

    def __len__(self) -> int:
        return len(self.digests)

    def get(self, indices: Sequence[int]) -> list[TrainingExample]:
        """Return the cached examples at ``indices``, in order."""
        digests = [self.digests[index] for index in indices]
        return [self.cache.read(digest) for digest in digests if digest in self.cache]


def _digest(value: object) -> str:
    return blake2b(repr(value).encode(), digest_size=16).hexdigest()


def _file_digest(file: Path) -> str:
    digest = blake2b(digest_size=16)
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _write_text(file: Path, text: str) -> None:
    with atomic_write(file) as path:
        path.write_text(text, encoding="utf-8")
