"""Callbacks for the progress of long work."""

from collections.abc import Callable

ProgressCallback = Callable[[int, int, str], None]
"""Called with (number done, total, description)."""


def no_progress(_done: int, _total: int, _what: str) -> None:
    """Do nothing; the ``ProgressCallback`` for callers without one."""
