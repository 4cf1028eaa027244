"""LMMs whose image tokens have no known place in the picture: they chat, and ground nothing."""

from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter


def check_places(adapter: LMMAdapter) -> None:
    """Check that the LMM's words can be grounded: its image tokens have places in the picture.

    Raises:
        InputError: they have none; says why.
    """
    if adapter.placeless_reason is not None:
        raise InputError(
            f"{describe_placeless(adapter)}; chat with it without phrases, or use another LMM"
        )


def describe_placeless(adapter: LMMAdapter) -> str:
    """Return in one line what an LMM cannot do whose image tokens have no places, and why."""
    return (
        f"LMM {adapter.name!r} answers questions, but its words cannot be grounded in pictures:"
        f" {adapter.placeless_reason}"
    )
