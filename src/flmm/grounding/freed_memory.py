"""Memory of a process that runs models again and again."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

# glibc's mallopt: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD (both in bytes), M_ARENA_MAX.
_MALLOC_OPTIONS = {-1: 2**30, -3: 2**25, -8: 1}
_TRIM_INTERVAL_SECONDS = 10


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Let the process keep what it frees for its next allocations, for some seconds at least.

    Each batch allocates what the last one freed: glibc would return it to the system and fetch it
    again, page by page, which is a seventh of the time that phrases take. The settings stay after
    the ``with`` block. Does nothing with other C libraries.
    """
    try:
        library = ctypes.CDLL(None)
        set_option, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):
        yield
        return
    for option, value in _MALLOC_OPTIONS.items():
        set_option(option, value)
    stopped = Event()

    def trim_memory() -> None:
        # Else free memory between used blocks is never returned, and grows with unusual batches.
        while not stopped.wait(_TRIM_INTERVAL_SECONDS):
            trim(0)

    trimmer = Thread(target=trim_memory, name="memory", daemon=True)
    trimmer.start()
    try:
        yield
    finally:
        stopped.set()
        trimmer.join()
