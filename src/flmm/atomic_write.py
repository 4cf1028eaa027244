"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flmm.errors import InputError


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Gives a place beside ``file`` to write to; what is there becomes ``file`` at the block's end.

    When the block raises, ``file`` stays as it was and nothing is left behind.
    """
    partial = file.with_name(f".flmm-{os.getpid()}-{os.urandom(4).hex()}.partial")
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def write_file_atomically(path: Path, content: bytes) -> None:
    """Writes a file that appears whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with atomic_write(path) as place:
            place.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"cannot write {str(path)!r} ({error.strerror}); choose another place for it"
        ) from error
