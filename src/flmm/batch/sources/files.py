"""Files on this machine by their paths, and elsewhere by their addresses, through fsspec."""

import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from flmm.batch.tasks import to_unicode
from flmm.errors import InputError, first_line
from flmm.pictures.folder import has_picture_suffix, iterate_pictures
from flmm.pictures.reading import PictureLike

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_SCHEME_END = "://"
_CHANGE_NAMES = ("mtime", "LastModified", "last_modified", "ETag", "etag", "created")
"""What file systems call the time of change, or another mark of it."""


@dataclass(frozen=True)
class PictureFile:
    """A picture in a file of its own, or in a part of a file."""

    path: str
    """A path or an address. Not a ``Path``, which takes as long to build as all else of an item."""
    part: tuple[int, int] | None = None
    """(first byte, number of bytes); None for the whole file."""

    def load(self) -> PictureLike:
        if self.part is None and not is_remote(self.path):
            return Path(self.path)
        return self.read_bytes()

    def read_bytes(self) -> bytes:
        with _saying_what_cannot_be_read(self.path), open_file(self.path) as opened:
            if self.part is None:
                return opened.read()
            opened.seek(self.part[0])
            return opened.read(self.part[1])


def is_remote(name: str) -> bool:
    """Return whether a name is an address, such as ``s3://bucket/a.png``."""
    return _SCHEME_END in name


def open_file(name: str) -> BinaryIO:
    """Open a file for reading.

    Raises:
        OSError: it cannot be opened.
        InputError: there is no such file system.
    """
    if not is_remote(name):
        return open(name, "rb")
    file_system, path = _find_file_system(name)
    return cast(BinaryIO, file_system.open(path, "rb"))


def join_beside(file: str, name: str) -> str:
    """Return the path of a file that is named relative to another's folder."""
    if is_remote(name):
        return name
    folder, separator, _ = file.rpartition("/" if is_remote(file) else os.sep)
    return os.path.join(folder + separator, name)


def is_folder(name: str) -> bool:
    """Return whether there is a folder of that name.

    Raises:
        InputError: there is no such file system, or it cannot be reached.
    """
    if not is_remote(name):
        return os.path.isdir(name)
    file_system, path = _find_file_system(name)
    with _saying_what_cannot_be_read(name):
        return bool(file_system.isdir(path))


def find_files(pattern: str) -> list[str]:
    """Return the files that a name with wildcards stands for, sorted.

    Raises:
        InputError: there is none, or the file system cannot be reached.
    """
    if is_remote(pattern):
        file_system, path = _find_file_system(pattern)
        with _saying_what_cannot_be_read(pattern):
            names = [file_system.unstrip_protocol(name) for name in file_system.glob(path)]
    else:
        names = [pattern] if os.path.exists(pattern) else glob.glob(pattern)
    if not names:
        raise InputError(f"there is no file {pattern!r}; check the name")
    return sorted(names)


def stamp_file(name: str) -> str:
    """Return a file's size and time of change, or "missing"."""
    try:
        if is_remote(name):
            file_system, path = _find_file_system(name)
            return _describe_change(file_system.info(path))
        status = os.stat(name)
    except (OSError, ValueError):
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def iterate_picture_files(folder: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield the pictures of a folder and its sub-folders, without hidden ones.

    Memory holds the names of one sub-folder at a time.

    Yields:
        The path or address, the name relative to the folder, and, where the listing has it, the
        stamp.

    Raises:
        InputError: a folder cannot be read.
    """
    try:
        if is_remote(folder):
            file_system, path = _find_file_system(folder)
            yield from _walk(file_system, path.rstrip("/"), "")
            return
        prefix = len(os.path.join(folder, ""))
        for file in iterate_pictures(folder):
            yield file, file[prefix:], None
    except OSError as error:
        raise InputError(
            f"{to_unicode(error.filename or folder)!r} cannot be read"
            f" ({error.strerror or first_line(error)}); check the folder"
        ) from error


def _walk(
    file_system: "AbstractFileSystem", root: str, inside: str
) -> Iterator[tuple[str, str, str]]:
    entries = file_system.ls(f"{root}/{inside}", detail=True)
    for entry in sorted(entries, key=lambda one: str(one["name"])):
        name = str(entry["name"]).rstrip("/").rpartition("/")[2]
        if name.startswith("."):
            continue
        if entry["type"] == "directory":
            yield from _walk(file_system, root, f"{inside}{name}/")
        elif has_picture_suffix(name):
            address = file_system.unstrip_protocol(entry["name"])
            yield address, inside + name, _describe_change(entry)


def _describe_change(information: Mapping[str, object]) -> str:
    changes = [str(information[name]) for name in _CHANGE_NAMES if name in information]
    return " ".join([str(information["size"]), *changes])


@contextmanager
def _saying_what_cannot_be_read(name: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # file systems raise errors of their own
        raise InputError(f"{name!r} cannot be read ({first_line(error)})") from error


def _find_file_system(name: str) -> "tuple[AbstractFileSystem, str]":
    from fsspec.core import url_to_fs

    try:
        file_system, path = url_to_fs(name)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{name!r} cannot be read ({first_line(error)}); install what fsspec needs for it"
        ) from error
    return file_system, str(path)
