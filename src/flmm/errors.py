"""Errors that the user can correct."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


_MAX_QUOTED = 300
"""Characters of a user's text that a message quotes."""


class InputError(ValueError):
    """An error in what the user gave: one line with what is wrong, the value, and the remedy."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def shorten(text: str) -> str:
    """Return a text as a message quotes it: a long one's beginning."""
    return text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}…"


def describe_first_error(error: "ValidationError") -> str:
    """Return the first error in one line, with its location; pydantic's text has many lines."""
    first = error.errors(include_url=False)[0]
    location = ".".join(map(str, first["loc"]))
    others = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return " ".join(f"{location + ': ' if location else ''}{first['msg']}{others}".split())
