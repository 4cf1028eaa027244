"""Atomic writing of files: they appear complete or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flmm.errors import InputError


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``file`` to write to; rename it to ``file`` after the block.

    If the block raises, ``file`` is unchanged and the temporary file is deleted.
    """
    partial = file.with_name(f".flmm-{os.getpid()}-{os.urandom(4).hex()}.partial")
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def write_file_atomically(path: Path, content: bytes) -> None:
    """Write a file with ``atomic_write``.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with atomic_write(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"cannot write {str(path)!r} ({error.strerror}); choose another place for it"
        ) from error


def check_folder_of(path: Path) -> None:
    """Check that a file can be written in its folder, before the work for it is done.

    Raises:
        InputError: the folder is missing or not writable.
    """
    if not os.path.isdir(path.parent):
        raise InputError(f"there is no folder {str(path.parent)!r}; make it or choose another")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"the folder {str(path.parent)!r} is not writable; choose another")
