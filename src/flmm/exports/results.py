"""Results of ``flmm batch``, as pictures and answers."""

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from flmm.answers.json_types import AnswerJson
from flmm.batch.storage.index import ResultIndex
from flmm.batch.storage.records import Record, changed_error
from flmm.errors import InputError, describe_first_error
from flmm.exports.pictures import PictureAnswer

if TYPE_CHECKING:
    from flmm.batch.storage.shard_files import ShardSnapshot

_ANSWER_ADAPTER = TypeAdapter(AnswerJson)


@dataclass
class BatchResults:
    """The answers of a results file or folder; each iteration reads them anew.

    Raises:
        InputError: while it reads, if there are no results, or something else, or if a batch that
            ends meanwhile drops results that were replaced.
    """

    path: Path
    num_failed: int = 0
    """Results without an answer, in the last iteration."""
    _inode: int | None = field(default=None, init=False, repr=False)
    """Of the file when it was first read: who drops results that were replaced writes it anew."""

    def __iter__(self) -> Iterator[PictureAnswer]:
        self.num_failed = 0
        for record in self.records():
            yield from self.read(record)

    def records(self) -> Iterator[Record]:
        """Yield the last record of each id, failures too; none that is added meanwhile."""
        is_current = self._is_current
        yield from itertools.compress(self._records(), is_current)

    @cached_property
    def _is_current(self) -> NDArray[np.bool_]:
        """Of each record, whether no later one has the same id."""
        index = ResultIndex(self._records())
        current = np.zeros(index.num_rows, dtype=np.bool_)
        current[index.positions] = True
        return current

    def _records(self) -> Iterator[Record]:
        try:
            if self.path.is_dir():
                yield from self._snapshot.records()
                return
            with self.path.open(encoding="utf-8") as opened:
                inode = os.fstat(opened.fileno()).st_ino
                if self._inode not in (None, inode):
                    raise changed_error(self.path)
                self._inode = inode
                for number, line in enumerate(opened, 1):
                    if line.endswith("\n"):  # an incomplete last one is of a run that goes on
                        yield self._parse(line, number)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{str(self.path)!r} cannot be read ({error}); give the results of flmm batch"
            ) from error

    @cached_property
    def _snapshot(self) -> "ShardSnapshot":
        try:
            from flmm.batch.storage.shard_files import ShardSnapshot
        except ImportError as error:
            raise InputError(
                f"{str(self.path)!r} is a folder, which needs pyarrow; pip install 'flmm[batch]'"
            ) from error
        snapshot = ShardSnapshot(self.path)
        if snapshot.is_empty:
            raise InputError(f"the folder {str(self.path)!r} has no results of flmm batch")
        return snapshot

    def _parse(self, line: str, number: int) -> Record:
        try:
            record = Record.parse(line)
            int(record.version, 16)
        except ValueError as error:
            raise InputError(
                f"{str(self.path)!r}, line {number}, is no result of flmm batch ({error}); give its"
                " results"
            ) from error
        return record

    def read(self, record: Record) -> Iterator[PictureAnswer]:
        """Yield the answers of a record, with the picture's name.

        Raises:
            InputError: it is no result.
        """
        try:
            content = json.loads(record.line)
            image = content["task"]["image"]
            answers = content.get("answers", [content["answer"]] if "answer" in content else [])
            self.num_failed += not answers
            for answer in answers:
                yield str(image), _ANSWER_ADAPTER.validate_python(answer)
        except ValidationError as error:
            raise self._record_error(record, describe_first_error(error)) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._record_error(record, f"{type(error).__name__}: {error}") from error

    def _record_error(self, record: Record, reason: str) -> InputError:
        return InputError(
            f"{str(self.path)!r}: the result {record.id!r} is none of flmm batch ({reason}); give"
            " its results"
        )
