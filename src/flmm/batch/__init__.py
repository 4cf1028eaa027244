"""Many pictures into results that a later run resumes."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flmm.batch.grounding_actor import GroundingActor

__all__ = ["GroundingActor"]


def __getattr__(name: str) -> object:
    # Imported on first use, because torch and transformers take seconds to import.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("flmm.batch.grounding_actor"), name)
