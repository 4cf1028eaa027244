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


def make_folder(folder: Path, place: Path) -> None:
    """Make the folder of the locks, and look whether files can be made in it.

    Args:
        folder: of the locks.
        place: of the results, for messages.

    Raises:
        InputError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock_shared_files(folder):
            pass
    except OSError as error:
        raise _not_writable_error(place, error) from error


@contextmanager
def lock_for_writing(folder: Path, place: Path, shard: tuple[int, int]) -> Iterator[None]:
    """Hold the right to write some results during the block.

    Args:
        folder: of the lock; ``make_folder`` made it.
        place: of the results, for messages.
        shard: (I, N): the block writes the results of the Ith of N parts of the work. Others may
            write the other parts.

    Raises:
        InputError: somebody else writes them; says who. Or the folder cannot be written.
    """
    name = f"writer-{shard[0]}-of-{shard[1]}"
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(folder / f"{name}.lock", timeout=_PATIENCE))
            for other, (_, num_parts) in _find_writers(folder, shard):
                if num_parts != shard[1]:
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
            raise _not_writable_error(place, error) from error
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)


def has_other_writers(folder: Path, shard: tuple[int, int]) -> bool:
    """Return whether anybody writes another part of the results now."""
    return any(True for _ in _find_writers(folder, shard))


def _find_writers(folder: Path, shard: tuple[int, int]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the names and parts of those who write another part now."""
    for file in sorted(folder.glob("writer-*.lock")):
        matched = _LOCK_NAME.fullmatch(file.name)
        if matched is None or (part := (int(matched[1]), int(matched[2]))) == shard:
            continue
        try:
            with FileLock(file, blocking=False):
                pass
        except Timeout:
            yield file.stem, part


@contextmanager
def lock_shared_files(folder: Path) -> Iterator[None]:
    """Wait for, and hold, the right to change what all writers of a folder share."""
    with FileLock(folder / "shared.lock"):
        yield


def _not_writable_error(place: Path, error: OSError) -> InputError:
    return InputError(
        f"--out {str(place)!r} cannot be written ({error.strerror}); choose another place"
    )


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
