"""Texts before which an answer ends."""

from collections.abc import Sequence


def find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of them begins."""
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many letters at the end may be the beginning of one of them."""
    return max(
        (
            count
            for stop in stops
            for count in range(1, min(len(stop), len(text) + 1))
            if text.endswith(stop[:count])
        ),
        default=0,
    )
