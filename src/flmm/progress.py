"""Callbacks that long work reports its progress and its messages to."""

from collections.abc import Callable

ProgressCallback = Callable[[int, int, str], None]
"""Shown (how much is done, how much there is, what it is)."""


def no_progress(_done: int, _total: int, _what: str) -> None:
    """A ``Watch`` for where nobody looks."""
