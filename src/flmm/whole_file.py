"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Gives a place beside ``file`` to write to; what is there becomes ``file`` at the block's end.

    When the block raises, ``file`` stays as it was and nothing is left behind.
    """
    partial = file.with_name(f".flmm-{os.getpid()}-{os.urandom(4).hex()}.partial")
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
