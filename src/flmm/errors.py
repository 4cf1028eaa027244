"""Errors that the user can correct."""


class InputError(ValueError):
    """An error in what the user gave: one line with what is wrong, the value, and the remedy."""
