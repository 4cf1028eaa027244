"""Errors that the user can correct."""


class InputError(ValueError):
    """An error in what the user gave: one line with what is wrong, the value, and the remedy."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
