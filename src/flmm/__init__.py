"""Point at things in a picture with the multimodal model you already use, without training it."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flmm.answers.answer import Answer
    from flmm.answers.phrase import Phrase
    from flmm.errors import InputError
    from flmm.grounding.grounder import Grounder

__all__ = ["Answer", "Grounder", "InputError", "Phrase", "__version__"]

__version__ = "0.1.0"

_MODULES = {
    "Answer": "flmm.answers.answer",
    "Grounder": "flmm.grounding.grounder",
    "InputError": "flmm.errors",
    "Phrase": "flmm.answers.phrase",
}


def __getattr__(name: str) -> object:
    # Imported on first use, because torch and transformers take seconds to import.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
