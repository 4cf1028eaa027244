"""Files of results in a folder: whole shards, and journals that become shards."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flmm.batch.storage.lines import read_lines
from flmm.batch.storage.records import Record, ResultState, changed_error

SCHEMA = pa.schema(
    [("id", pa.string()), ("version", pa.string()), ("error", pa.string()), ("line", pa.string())]
)
_STATE_COLUMNS = ("id", "version", "error")
_FILE_NAME = re.compile(r"\.?results-(\d+)-(\d+)-of-(\d+)(?:-(\d+))?\.(parquet|jsonl)")
_MAX_TRIES = 100


@dataclass(frozen=True, order=True)
class ResultFile:
    """A shard or a journal; later runs and files come later."""

    run: int
    number: int
    """Of the shard in its run; a journal's comes after all."""
    part: tuple[int, int]
    """(I, N) of its writer."""
    path: Path

    @property
    def is_journal(self) -> bool:
        """Whether it is no shard yet."""
        return self.path.suffix == ".jsonl"


def list_files(folder: Path) -> list[ResultFile]:
    """Return the files of results in a folder, the oldest first."""
    files = []
    for path in folder.glob("*results-*"):
        matched = _FILE_NAME.fullmatch(path.name)
        if matched is not None:
            run, part, parts = map(int, matched.group(1, 2, 3))
            number = sys.maxsize if matched[4] is None else int(matched[4])
            files.append(ResultFile(run, number, (part, parts), path))
    return sorted(files)


def read_states(folder: Path) -> Iterator[ResultState]:
    """Yield the states of all rows of shards, the oldest first.

    Other writers may drop files meanwhile, whose ids have rows in newer ones; those are read too.
    """
    begun: set[Path] = set()
    while files := [
        file for file in list_files(folder) if not file.is_journal and file.path not in begun
    ]:
        for file in files:
            begun.add(file.path)
            try:
                opened = pq.ParquetFile(file.path)
            except FileNotFoundError:
                continue
            with opened:
                for columns in _read_columns(opened, _STATE_COLUMNS):
                    yield from map(ResultState, *columns)


class ShardSnapshot:
    """The results that a folder has now; they can be read while a batch goes on there.

    Args:
        folder: of the shards and journals.

    Raises:
        OSError: it cannot be read.
        InputError: a line of a journal is no result.
    """

    def __init__(self, folder: Path) -> None:
        failure = OSError("its files change all the time")
        for _ in range(_MAX_TRIES):
            self._files = list_files(folder)
            try:
                # Journals are short, and gone as soon as they are shards.
                self._journals = {
                    file.path: list(read_lines(file.path))
                    for file in self._files
                    if file.is_journal
                }
                self._stamps = {
                    file.path: _stamp(file.path) for file in self._files if not file.is_journal
                }
            except FileNotFoundError as error:
                failure = error
                continue
            if list_files(folder) == self._files:  # else a journal may be another one by now
                return
        raise failure

    @property
    def is_empty(self) -> bool:
        """Whether there are no results."""
        return not self._stamps and not any(self._journals.values())

    def records(self) -> Iterator[Record]:
        """Yield the results, the oldest first.

        Raises:
            InputError: a batch that ended meanwhile dropped results that were replaced.
        """
        for file in self._files:
            if file.is_journal:
                yield from self._journals[file.path]
                continue
            try:
                opened = pq.ParquetFile(file.path)
                is_changed = _stamp(file.path) != self._stamps[file.path]
            except FileNotFoundError:
                is_changed = True
            if is_changed:
                raise changed_error(file.path.parent)
            with opened:
                for columns in _read_columns(opened, SCHEMA.names):
                    yield from map(Record, *columns)


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read_columns(opened: pq.ParquetFile, names: Sequence[str]) -> Iterator[list[list[str | None]]]:
    """Yield the columns of these names, some rows at a time."""
    for batch in opened.iter_batches(columns=list(names)):
        yield [batch.column(name).to_pylist() for name in names]
