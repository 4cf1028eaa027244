"""Rows on disk: parts during a run, one Parquet file a row type at its end.

out/run.json              the run's record; another run is refused in this folder
out/parts/000012.parquet  the rows of some samples, written atomically
out/results.parquet       one row a phrase; beside it captions, said and samples, and similarities
                          once a text encoder has compared the phrases; of questions that are
                          answered, answers and samples alone
"""

import io
from collections.abc import Collection, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from flmm.atomic_write import write_file_atomically
from flmm.errors import InputError
from flmm.evaluate.rows import (
    AnswerRow,
    GeneratedPhraseRow,
    JudgementRow,
    PhraseRow,
    SampleResult,
    SampleRow,
    SelectorRow,
    SimilarityRow,
)

Row = TypeVar(
    "Row",
    PhraseRow,
    SelectorRow,
    GeneratedPhraseRow,
    SimilarityRow,
    AnswerRow,
    JudgementRow,
    SampleRow,
)

_ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
_FILE_NAMES: dict[type, str] = {
    PhraseRow: "results.parquet",
    SelectorRow: "captions.parquet",
    GeneratedPhraseRow: "said.parquet",
    SimilarityRow: "similarities.parquet",
    AnswerRow: "answers.parquet",
    JudgementRow: "judgements.parquet",
    SampleRow: "samples.parquet",
}
_NESTED_ROWS: dict[str, type] = {
    "phrases": PhraseRow,
    "captions": SelectorRow,
    "said": GeneratedPhraseRow,
    "answers": AnswerRow,
}
ANSWER_ROWS = ("answers",)
"""What a run of questions that are answered has, beside its samples."""
MASK_ROWS = tuple(name for name in _NESTED_ROWS if name not in ANSWER_ROWS)
"""What every other run has."""


def _arrow_type(hint: object) -> pa.DataType:
    """Return the Parquet type of a row's field."""
    if get_origin(hint) is tuple:
        return pa.list_(_ARROW_TYPES[get_args(hint)[0]])
    if isinstance(hint, UnionType):
        (hint,) = (option for option in get_args(hint) if option is not NoneType)
    assert isinstance(hint, type)
    return _ARROW_TYPES[hint]


def _struct(row_type: type) -> pa.DataType:
    return pa.struct([(name, _arrow_type(hint)) for name, hint in get_type_hints(row_type).items()])


_PART_SCHEMA = pa.schema(
    [
        ("row", _struct(SampleRow)),
        *((name, pa.list_(_struct(row_type))) for name, row_type in _NESTED_ROWS.items()),
    ]
)


def part_file(out: Path, index: int) -> Path:
    return out / "parts" / f"{index:06d}.parquet"


def write_part(file: Path, results: Sequence[SampleResult]) -> None:
    """Write the rows of some samples atomically.

    Raises:
        InputError: the file cannot be written.
    """
    _write(file, pa.Table.from_pylist([asdict(result) for result in results], schema=_PART_SCHEMA))


def is_part_complete(file: Path, sample_indices: Sequence[int]) -> bool:
    """Return whether a part exists, with these samples.

    Raises:
        InputError: it exists but is damaged, or has other samples or columns.
    """
    if not file.exists():
        return False
    table = _read(file)
    if table.schema != _PART_SCHEMA:
        raise InputError(f"{str(file)!r} has other columns than this flmm writes")
    indices = table["row"].combine_chunks().field("sample").to_pylist()
    if indices != list(sample_indices):
        raise InputError(f"{str(file)!r} has other samples than it should")
    return True


def merge_parts(out: Path, num_parts: int, row_names: Collection[str]) -> None:
    """Join the parts to one file a row type, in the order of the samples.

    ``row_names``: ``MASK_ROWS`` or ``ANSWER_ROWS``.

    Raises:
        InputError: a part is missing or damaged, or the disk is full.
    """
    table = pa.concat_tables([_read(part_file(out, number)) for number in range(num_parts)])
    table = table.combine_chunks()
    for name in row_names:
        row_type = _NESTED_ROWS[name]
        rows = table[name].combine_chunks().flatten()
        _write(out / _FILE_NAMES[row_type], _build_table(rows, row_type))
    # Left by processes that were killed while they wrote.
    for file in part_file(out, 0).parent.glob(".flmm-*.partial"):
        file.unlink(missing_ok=True)
    _write(out / _FILE_NAMES[SampleRow], _build_table(table["row"].combine_chunks(), SampleRow))


def read_rows(out: Path, row_type: type[Row]) -> list[Row]:
    """Read the rows of one type of a finished run.

    Raises:
        InputError: the file is missing, damaged, or has other columns.
    """
    file = out / _FILE_NAMES[row_type]
    if not file.exists():
        raise InputError(f"there is no {str(file)!r}; run `flmm evaluate` to its end first")
    table = _read(file)
    if table.schema.names != [field.name for field in fields(row_type)]:
        raise InputError(f"{str(file)!r} has other columns than this flmm writes; evaluate anew")
    tuples = [name for name, hint in get_type_hints(row_type).items() if get_origin(hint) is tuple]
    rows = []
    for content in table.to_pylist():
        for name in tuples:
            content[name] = tuple(content[name])
        rows.append(row_type(**content))
    return rows


def write_rows(out: Path, row_type: type[Row], rows: Sequence[Row]) -> None:
    """Write all rows of one type of a run, atomically.

    Raises:
        InputError: the file cannot be written.
    """
    fields_of_rows = pa.array([asdict(row) for row in rows], type=_struct(row_type))
    _write(out / _FILE_NAMES[row_type], _build_table(fields_of_rows, row_type))


def has_rows(out: Path, row_type: type[Row]) -> bool:
    """Return whether there is a file with the rows of one type."""
    return (out / _FILE_NAMES[row_type]).exists()


def _build_table(rows: pa.StructArray, row_type: type) -> pa.Table:
    struct = _struct(row_type)
    names = [struct.field(index).name for index in range(struct.num_fields)]
    return pa.Table.from_arrays(rows.flatten(), names=names)


def _write(file: Path, table: pa.Table) -> None:
    content = io.BytesIO()
    pq.write_table(table, content, write_page_checksum=True)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {str(file.parent)!r} ({error.strerror}); choose another --out"
        ) from error
    write_file_atomically(file, content.getvalue())


def _read(file: Path) -> pa.Table:
    try:
        return pq.read_table(file, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"{str(file)!r} is missing or damaged ({reason}); evaluate anew"
        ) from error
