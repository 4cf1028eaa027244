"""Results in a folder of Parquet files, and in a journal until there are enough for the next."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flmm.atomic_write import atomic_write
from flmm.batch.storage.index import ResultIndex
from flmm.batch.storage.lines import append_lines, read_lines
from flmm.batch.storage.lock import lock_shared_files
from flmm.batch.storage.records import Record, ResultState, ResultStore, storage_error
from flmm.batch.storage.shard_files import SCHEMA, ShardSnapshot, list_files, read_states

RESULTS_PER_SHARD = 1000


class ShardStore(ResultStore):
    """A folder of shards, each of them whole.

    A shard is a Parquet file with the columns of ``Record``. Results are first appended to this
    writer's journal, a hidden file; when it has ``RESULTS_PER_SHARD``, it becomes a shard.

    Args:
        folder: of the shards.
        shard: (I, N): this writer's part of the work.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, shard: tuple[int, int] = (0, 1)) -> None:
        self._folder = folder
        self._shard = shard
        with self._changing():
            files = list_files(folder)
            for file in files:
                # Journals of earlier runs; those of the same N may be of writers that still write.
                if file.is_journal and (file.part == shard or file.part[1] != shard[1]):
                    self._seal(file.path, file.run, file.part)
            self._run = max((file.run for file in files), default=0) + 1
        part = f"{shard[0]}-of-{shard[1]}"
        self._journal_path = folder / f".results-{self._run:05d}-{part}.jsonl"
        self._num_in_journal = 0

    @staticmethod
    def has_results(folder: Path) -> bool:
        """Return whether a folder has results."""
        return bool(list_files(folder))

    def states(self) -> Iterator[ResultState]:
        return read_states(self._folder)

    def records(self) -> Iterator[Record]:
        return ShardSnapshot(self._folder).records()

    def append(self, records: Sequence[Record]) -> None:
        if not records:
            return
        append_lines(self._journal_path, records)
        self._num_in_journal += len(records)
        if self._num_in_journal >= RESULTS_PER_SHARD:
            self._seal_journal()

    def finish(self, *, drop_replaced: bool) -> None:
        if self._num_in_journal:
            self._seal_journal()
        if drop_replaced:
            with self._changing():
                self._drop_replaced_rows()

    def _seal_journal(self) -> None:
        with self._changing():
            self._seal(self._journal_path, self._run, self._shard)
        self._num_in_journal = 0

    def _seal(self, journal: Path, run: int, part: tuple[int, int]) -> None:
        """Make a journal a shard. Where this is interrupted, its results are there twice."""
        records = list(read_lines(journal))
        if records:
            numbers = [
                file.number
                for file in list_files(self._folder)
                if (file.run, file.part, file.is_journal) == (run, part, False)
            ]
            name = f"results-{run:05d}-{part[0]}-of-{part[1]}-{max(numbers, default=0) + 1:05d}"
            columns = {field: [getattr(one, field) for one in records] for field in SCHEMA.names}
            _write_table(pa.table(columns, schema=SCHEMA), self._folder / f"{name}.parquet")
        journal.unlink()

    def _drop_replaced_rows(self) -> None:
        index = ResultIndex(self.states())
        if len(index) == index.num_rows:
            return
        keeps = np.zeros(index.num_rows, dtype=np.bool_)
        keeps[index.positions] = True
        first = 0
        for file in list_files(self._folder):
            if file.is_journal:
                continue
            num_rows = pq.read_metadata(file.path).num_rows
            kept = keeps[first : first + num_rows]
            first += num_rows
            if not kept.any():
                file.path.unlink()
            elif not kept.all():
                _write_table(pq.read_table(file.path).filter(pa.array(kept)), file.path)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            with lock_shared_files(self._folder):
                yield
        except OSError as error:
            raise storage_error(self._folder, error) from error


def _write_table(table: pa.Table, path: Path) -> None:
    with atomic_write(path) as partial:
        pq.write_table(table, partial, compression="zstd")
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
