"""Search for stop strings, before which an answer ends."""

from collections.abc import Sequence


def find_stop_string(text: str, stop_strings: Sequence[str]) -> int | None:
    """Return where the first stop string begins; None if there is none."""
    return min((at for stop in stop_strings if (at := text.find(stop)) >= 0), default=None)


def partial_stop_length(text: str, stop_strings: Sequence[str]) -> int:
    """Return how many characters at the end may be the beginning of a stop string."""
    return max(
        (
            count
            for stop in stop_strings
            for count in range(1, min(len(stop), len(text) + 1))
            if text.endswith(stop[:count])
        ),
        default=0,
    )
