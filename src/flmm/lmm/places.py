"""LMMs whose image tokens have no known place in the picture: they chat, and ground nothing."""

from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter


def check_places(adapter: LMMAdapter) -> None:
    """Check that the LMM's words can be grounded: its image tokens have places in the picture.

    Raises:
        InputError: they have none; says why.
    """
    reason = adapter.placeless_reason
    if reason is not None:
        raise InputError(
            f"{describe_placeless(adapter.name, reason)}; chat with it without phrases, or use"
            " another LMM"
        )


def describe_placeless(name: str, reason: str) -> str:
    """Return in one line what an LMM cannot do whose image tokens have no places, and why."""
    return f"LMM {name!r} answers questions, but its words cannot be grounded in pictures: {reason}"
