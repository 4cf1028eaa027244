"""One writer at a time; the system ends a writer's lock with its process, however that ends."""

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from flmm.atomic_write import atomic_write
from flmm.errors import InputError

_PATIENCE = 1.0
"""Seconds: others who look whether a lock is held hold it for a moment."""
_LOCK_NAME = re.compile(r"writer-(\d+)-of-(\d+)\.lock")


@contextmanager
def lock_for_writing(folder: Path, place: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Hold the right to write some results during the block.

    Args:
        folder: of the lock.
        place: of the results, for messages.
        shard: (I, N): the block writes the results of the Ith of N parts of the work. Others may
            write the other parts.

    Raises:
        InputError: somebody else writes them; says who. Or the folder cannot be written.
    """
    name = f"writer-{shard[0]}-of-{shard[1]}"
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(folder / f"{name}.lock", timeout=_PATIENCE))
            for other in _find_writers_of_other_parts(folder, shard[1]):
                raise _held_error(folder, other, place)
            holder = folder / f"{name}.json"
            now = datetime.now(UTC).isoformat(timespec="seconds")
            with atomic_write(holder) as partial:
                partial.write_text(
                    json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": now})
                )
        except Timeout as error:
            raise _held_error(folder, name, place) from error
        except OSError as error:
            raise InputError(
                f"--out {str(place)!r} cannot be written ({error.strerror}); choose another place"
            ) from error
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)


def _find_writers_of_other_parts(folder: Path, num_parts: int) -> Iterator[str]:
    """Yield the names of those who write now and share the work in another number of parts."""
    for file in sorted(folder.glob("writer-*.lock")):
        matched = _LOCK_NAME.fullmatch(file.name)
        if matched is None or int(matched[2]) == num_parts:
            continue
        try:
            with FileLock(file, timeout=_PATIENCE):
                pass
        except Timeout:
            yield file.stem


@contextmanager
def lock_shared_files(folder: Path) -> Iterator[None]:
    """Wait for, and hold, the right to change what all writers of a folder share."""
    with FileLock(folder / "shared.lock"):
        yield


def _held_error(folder: Path, name: str, place: Path) -> InputError:
    try:
        holder = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        who = f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return InputError(
        f"--out {str(place)!r} is being written by {who}; wait for its end, stop it, or choose"
        " another place"
    )
