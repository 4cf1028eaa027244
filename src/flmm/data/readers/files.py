"""Checked reading of JSON and pickles; errors name the file and the place in it."""

import codecs
import io
import os
import pickle
import struct
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError

from flmm.errors import InputError, describe_first_error

Content = TypeVar("Content")
Key = TypeVar("Key", bound=Hashable)

_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG")


# The unpickler in C trusts the file's numbers: one flipped bit may allocate all memory. The one in
# Python takes about four times as long, some seconds for all of RefCOCO.
class _RestrictedUnpickler(pickle._Unpickler):
    """An unpickler of containers, numbers and strings only; classes and functions are refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise InputError(
            f"it names {f'{module}.{name}'!r}, which plain data has no use for; do not trust it"
        )

    def persistent_load(self, identity: object) -> NoReturn:
        raise InputError(f"it refers to {identity!r} outside itself; do not trust it")


def read_json(
    file: Path, schema: TypeAdapter[Content], encodings: Sequence[str] = ("utf-8",)
) -> Content:
    """Read a JSON file and check it; ``encodings`` are tried one after the other.

    Raises:
        InputError: it is missing, cut short, or does not fit the schema; says where.
    """
    # Editors on Windows write a byte order mark.
    content = _read_bytes(file).removeprefix(codecs.BOM_UTF8)
    for encoding in encodings:
        try:
            return schema.validate_json(content.decode(encoding))
        except UnicodeDecodeError:
            continue
        except ValidationError as error:
            raise InputError(f"{str(file)!r}: {describe_first_error(error)}") from error
    raise InputError(f"{str(file)!r} is not text in {' or '.join(encodings)}; download it again")


def read_plain_pickle(file: Path, schema: TypeAdapter[Content]) -> Content:
    """Read a pickle of containers, numbers and strings and check it; no code in it runs.

    Raises:
        InputError: it is missing, cut short, does not fit the schema, or names code to run.
    """
    try:
        # The published files are Python 2's, whose strings are bytes.
        content = _RestrictedUnpickler(io.BytesIO(_read_bytes(file)), encoding="latin1").load()
        return schema.validate_python(content)
    except InputError as error:
        raise InputError(f"pickle {str(file)!r} is refused: {error}") from error
    except ValidationError as error:
        raise InputError(f"{str(file)!r}: {describe_first_error(error)}") from error
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, TypeError,
            AttributeError, AssertionError, MemoryError, OverflowError, RecursionError,
            struct.error) as error:  # fmt: skip
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"pickle {str(file)!r} is damaged or cut short ({reason}); download it again"
        ) from error


def read_json_line(
    line: str, line_number: int, file: Path, schema: TypeAdapter[Content]
) -> Content:
    """Parse and check one line of a JSONL file.

    Raises:
        InputError: it is not JSON or does not fit the schema; names the line.
    """
    try:
        return schema.validate_json(line)
    except ValidationError as error:
        raise InputError(
            f"{str(file)!r}, line {line_number}: {describe_first_error(error)}"
        ) from error


def index_by_id(
    file: Path, entry_name: str, entries: Iterable[tuple[Key, Content]]
) -> dict[Key, Content]:
    """Return the entries by their ids; equal entries with one id count once.

    Raises:
        InputError: two different entries have the same id.
    """
    by_id: dict[Key, Content] = {}
    for key, entry in entries:
        if by_id.setdefault(key, entry) != entry:
            raise InputError(
                f"{str(file)!r}: two different {entry_name} have the number {key!r};"
                " give each its own"
            )
    return by_id


def choose_picture(*candidates: Path) -> Path:
    """Return the first picture that exists, or the first where none does.

    For data sets whose pictures were saved anew in another format: ``candidates`` differ in their
    suffix.
    """
    # Unlike Path.exists, it takes names that no file can have.
    return next((file for file in candidates if os.path.exists(file)), candidates[0])


def find_picture(without_suffix: Path) -> Path:
    """Return the picture of a name that its data set gives without a suffix.

    Published ones are ``.jpg``; copies of them may have another.
    """
    return choose_picture(*(
        without_suffix.with_name(without_suffix.name + suffix) for suffix in _PICTURE_SUFFIXES
    ))  # fmt: skip


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{str(file)!r} cannot be read ({reason}); check the data set's folder"
        ) from error
