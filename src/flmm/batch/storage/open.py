"""The results that ``--out`` names: opened by one writer, and made with the same settings."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from flmm.batch.storage.lines import LineStore
from flmm.batch.storage.lock import (
    has_other_writers,
    lock_for_writing,
    lock_shared_files,
    make_folder,
)
from flmm.batch.storage.manifest import (
    compute_fingerprint,
    describe_difference,
    read_manifest,
    write_manifest,
)
from flmm.batch.storage.records import ResultStore
from flmm.errors import InputError

LINES_SUFFIX = ".jsonl"
"""Of the name of a results file; other names are those of folders."""


@dataclass(frozen=True)
class ResultPlace:
    """Where results are: a JSONL file or a folder of shards."""

    path: Path

    @property
    def is_file(self) -> bool:
        """Whether it is a JSONL file."""
        return self.path.suffix == LINES_SUFFIX

    @property
    def control_folder(self) -> Path:
        """Folder of manifest and locks."""
        return self.path.with_name(f".{self.path.name}.flmm") if self.is_file else self.path

    def beside(self, fingerprint: str) -> "ResultPlace":
        """Return the place for results of other settings."""
        if self.is_file:
            return ResultPlace(self.path.with_stem(f"{self.path.stem}-{fingerprint}"))
        return ResultPlace(self.path / fingerprint)

    def has_results(self) -> bool:
        """Return whether there is any."""
        if self.is_file:
            return self.path.is_file() and self.path.stat().st_size > 0
        from flmm.batch.storage.shards import ShardStore  # needs pyarrow

        return ShardStore.has_results(self.path)

    def check(self) -> None:
        """Check that it can be one, before the models are loaded.

        Raises:
            InputError: there is something else.
        """
        if self.is_file and self.path.is_dir():
            raise InputError(f"--out {str(self.path)!r} is a folder; name it otherwise")
        if not self.is_file and self.path.exists() and not self.path.is_dir():
            raise InputError(
                f"--out {str(self.path)!r} is a file; give a folder, or a name that ends with"
                f" {LINES_SUFFIX}"
            )


@contextmanager
def open_results(
    place: ResultPlace,
    settings: Mapping[str, object],
    names: Mapping[str, object] | None = None,
    *,
    also: bool = False,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[tuple[ResultPlace, ResultStore]]:
    """Open results for writing during the block.

    Args:
        place: of the results.
        settings: what results depend on; stored ones must have the same.
        names: what else the manifest says.
        also: whether results of other settings go to a place of their own, and no error is raised.
        shard: (I, N), the part of the work whose results are written.

    Yields:
        Where the results are, and the results.

    Raises:
        InputError: somebody else writes there, the results are of other settings, or the place
            cannot be written.
    """
    place.check()
    control = place.control_folder
    make_folder(control, place.path)
    with ExitStack() as writing:
        # So that whoever is seen to hold a writer's lock has taken the manifest as it is.
        with lock_shared_files(control):
            writing.enter_context(lock_for_writing(control, place.path, shard))
            difference = _check_manifest(place, settings, names or {}, shard)
            if difference:
                writing.close()
        if not difference:
            yield place, _open_store(place, shard)
            return
    fingerprint = compute_fingerprint(settings)
    if not also:
        raise InputError(
            f"--out {str(place.path)!r} is for results of other settings: {difference}; choose"
            " another place, or keep both with --also"
        )
    beside = place.beside(fingerprint)
    with open_results(beside, settings, names, shard=shard) as opened:
        yield opened


def _check_manifest(
    place: ResultPlace,
    settings: Mapping[str, object],
    names: Mapping[str, object],
    shard: tuple[int, int],
) -> str:
    """Return what differs from the stored manifest, or write one where nothing depends on it."""
    if not place.has_results() and not has_other_writers(place.control_folder, shard):
        write_manifest(place.control_folder, settings, names)
        return ""
    before = read_manifest(place.control_folder)
    if before is None:
        raise InputError(
            f"--out {str(place.path)!r} has no manifest, perhaps since an older flmm wrote it;"
            " choose another place"
        )
    return describe_difference(before, settings)


def _open_store(place: ResultPlace, shard: tuple[int, int]) -> ResultStore:
    if place.is_file:
        return LineStore(place.path)
    from flmm.batch.storage.shards import ShardStore  # needs pyarrow

    return ShardStore(place.path, shard)
