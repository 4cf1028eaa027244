"""Texts before which an answer ends."""

from collections.abc import Sequence


def find_stop_string(text: str, stop_strings: Sequence[str]) -> int | None:
    """Where the first of them begins."""
    return min((at for stop in stop_strings if (at := text.find(stop)) >= 0), default=None)


def partial_stop_length(text: str, stop_strings: Sequence[str]) -> int:
    """How many letters at the end may be the beginning of one of them."""
    return max(
        (
            count
            for stop in stop_strings
            for count in range(1, min(len(stop), len(text) + 1))
            if text.endswith(stop[:count])
        ),
        default=0,
    )
