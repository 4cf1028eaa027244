"""Errors that the user can mend."""


class InputError(ValueError):
    """The user's mistake: one line with what is wrong, the value, and what to do about it."""
