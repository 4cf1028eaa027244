"""Rows of Parquet files: pictures as paths or as the files' content."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from flmm.batch.sources.files import PictureFile, join_beside, open_file, stamp_file
from flmm.batch.sources.items import Item, Source, StoredPicture, stamp_content
from flmm.batch.tasks import Task
from flmm.errors import InputError, describe_first_error
from flmm.pictures.reading import PictureLike

_PICTURE_COLUMN = "image"
_TASK_COLUMNS = frozenset(Task.model_fields)


class ParquetSource(Source):
    """The rows of Parquet files, with columns named as the entries of a list's lines.

    ``image`` has paths or addresses, the content of files, or both as the library datasets writes
    them (``{bytes, path}``): where the bytes are null, the path is read. The ids of pictures
    without a path are such as ``a.parquet#17``.

    Args:
        files: paths or addresses.
        question: for rows that ask nothing.
        use_digests: whether a changed picture is known by its content, and not, inside a Parquet
            file, by that of the file.
    """

    def __init__(self, files: Sequence[str], question: str | None, use_digests: bool) -> None:
        self._files = files
        self._question = question
        self._use_digests = use_digests

    def __iter__(self) -> Iterator[Item]:
        for name in self._files:
            yield from self._read(_ParquetPictures(name))

    def count(self) -> int:
        return sum(_ParquetPictures(name).file.metadata.num_rows for name in self._files)

    def _read(self, pictures: "_ParquetPictures") -> Iterator[Item]:
        columns = [name for name in pictures.file.schema_arrow.names if name in _TASK_COLUMNS]
        if pictures.holds_content:
            # Read when an item needs a result; the path alone is read here.
            columns.remove(_PICTURE_COLUMN)
            columns += [f"{_PICTURE_COLUMN}.path"] if pictures.is_struct else []
        file_stamp = stamp_file(pictures.name)
        number = 0
        for group in range(pictures.file.num_row_groups):
            num_rows = pictures.file.metadata.row_group(group).num_rows
            table = pictures.file.read_row_group(group, columns=columns)
            rows = table.to_pylist() if columns else [{} for _ in range(num_rows)]
            for index, row in enumerate(rows):
                number += 1
                task = self._build_task(row, f"{pictures.name}#{number}")
                picture: StoredPicture
                if pictures.holds_content:
                    path = _read_path(row)
                    picture = _PictureInParquet(pictures, group, index, path)
                    stamp = file_stamp
                    if path and pictures.may_lack_content(group) and not self._use_digests:
                        stamp = f"{stamp} {stamp_file(join_beside(pictures.name, path))}"
                else:
                    path = join_beside(pictures.name, task.image)
                    picture = PictureFile(path)
                    stamp = "" if self._use_digests else stamp_file(path)
                yield Item(
                    id=task.id or task.image,
                    task=task,
                    picture=picture,
                    stamp=stamp_content(picture) if self._use_digests else stamp,
                )

    def _build_task(self, row: dict[str, object], place: str) -> Task:
        content = {name: value for name, value in row.items() if value is not None}
        if not isinstance(content.get(_PICTURE_COLUMN), str):
            content[_PICTURE_COLUMN] = _read_path(row) or place.rpartition("/")[2]
        try:
            task = Task.model_validate(content)
        except ValidationError as error:
            raise InputError(f"{place!r}: {describe_first_error(error)}") from error
        return task.complete(self._question, repr(place))


def _read_path(row: dict[str, object]) -> str | None:
    """Return the path beside a picture's content."""
    picture = row.get(_PICTURE_COLUMN)
    return picture.get("path") if isinstance(picture, dict) else None


class _ParquetPictures:
    """A Parquet file, with the pictures of the row group that was read last."""

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            self.file = pq.ParquetFile(open_file(name))
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{name!r} is no Parquet file that can be read") from error
        schema = self.file.schema_arrow
        if _PICTURE_COLUMN not in schema.names:
            raise InputError(
                f"{name!r} has no column {_PICTURE_COLUMN!r}; name that of the pictures so"
            )
        kind = schema.field(_PICTURE_COLUMN).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        self.is_struct = pa.types.is_struct(kind)
        self.holds_content = not (pa.types.is_string(kind) or pa.types.is_large_string(kind))
        self._lock = Lock()
        self._group = -1
        self._column: pa.ChunkedArray | None = None

    def __reduce__(self) -> "tuple[Callable[[str], _ParquetPictures], tuple[str]]":
        # In another process, all pictures of a file share one that is open there.
        return _open_in_other_processes, (self.name,)

    def may_lack_content(self, group: int) -> bool:
        """Return whether rows of a group may have paths alone; content is not read for it."""
        columns = self.file.metadata.row_group(group)
        for number in range(columns.num_columns):
            column = columns.column(number)
            if column.path_in_schema == f"{_PICTURE_COLUMN}.bytes":
                return column.statistics is None or column.statistics.null_count != 0
        return True

    def read(self, group: int, index: int) -> bytes | None:
        """Return a row's picture, None if it is null.

        Memory holds one row group's, since rows are read in order.
        """
        with self._lock:
            if group != self._group:
                self._column = self.file.read_row_group(group, columns=[_PICTURE_COLUMN]).column(0)
                self._group = group
            assert self._column is not None
            value = self._column[index].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        return None if content is None else bytes(content)


_open_in_other_processes = lru_cache(maxsize=4)(_ParquetPictures)


@dataclass(frozen=True)
class _PictureInParquet:
    """A picture in a row of a Parquet file."""

    pictures: _ParquetPictures
    group: int
    index: int
    path: str | None

    def load(self) -> PictureLike:
        content = self.pictures.read(self.group, self.index)
        return self._find_file().load() if content is None else content

    def read_bytes(self) -> bytes:
        content = self.pictures.read(self.group, self.index)
        return self._find_file().read_bytes() if content is None else content

    def _find_file(self) -> PictureFile:
        if not self.path:
            raise InputError(
                f"{self.pictures.name!r} has no picture in this row; give its content or path"
            )
        return PictureFile(join_beside(self.pictures.name, self.path))
