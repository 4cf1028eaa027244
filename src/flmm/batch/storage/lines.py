"""Results in a JSONL file."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from flmm.atomic_write import atomic_write
from flmm.batch.storage.index import ResultIndex
from flmm.batch.storage.records import Record, ResultState, ResultStore, storage_error
from flmm.errors import InputError

_BLOCK = 2**16


def read_lines(file: Path) -> Iterator[Record]:
    """Yield the results of a JSONL file, without an incomplete last one.

    Raises:
        InputError: a line is no result.
    """
    with file.open(encoding="utf-8", errors="replace") as opened:
        for number, line in enumerate(opened, 1):
            if not line.endswith("\n"):
                return
            try:
                yield Record.parse(line[:-1])
            except ValueError as error:
                raise InputError(
                    f"--out {str(file)!r}, line {number}, is no result of this flmm; choose another"
                    " place"
                ) from error


def append_lines(file: Path, records: Sequence[Record]) -> None:
    """Append results to a JSONL file; they are on the disk when this returns.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with file.open("a", encoding="ascii") as opened:
            opened.write("".join(f"{record.line}\n" for record in records))
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise storage_error(file, error) from error


class LineStore(ResultStore):
    """A JSONL file, a line for each result.

    Args:
        file: new, or of an earlier run; an incomplete last line of a run that was killed is
            dropped.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            with file.open("ab+") as opened:
                opened.truncate(_find_end_of_lines(opened))
        except OSError as error:
            raise storage_error(file, error) from error

    def states(self) -> Iterator[ResultState]:
        return self.records()

    def records(self) -> Iterator[Record]:
        return read_lines(self._file)

    def append(self, records: Sequence[Record]) -> None:
        append_lines(self._file, records)

    def finish(self, *, drop_replaced: bool) -> None:
        if not drop_replaced:
            return
        index = ResultIndex(self.states())
        if len(index) == index.num_rows:
            return
        kept = set(index.positions.tolist())
        try:
            with atomic_write(self._file) as partial, partial.open("w", encoding="ascii") as opened:
                for position, record in enumerate(self.records()):
                    if position in kept:
                        opened.write(f"{record.line}\n")
                opened.flush()
                os.fsync(opened.fileno())
        except OSError as error:
            raise storage_error(self._file, error) from error


def _find_end_of_lines(opened: BinaryIO) -> int:
    """Return the length of a file without an incomplete last line."""
    end = opened.seek(0, os.SEEK_END)
    while end > 0:
        begin = opened.seek(max(end - _BLOCK, 0))
        last = opened.read(end - begin).rfind(b"\n")
        if last >= 0:
            return begin + last + 1
        end = begin
    return 0
