"""What users are told if the generic adapter cannot read an LMM."""

from flmm.errors import InputError, first_line


def processor_error(name: str, model_type: str, error: Exception) -> InputError:
    """Return the error that says what the model's own processor raised."""
    reason = f"its own processor cannot be used ({first_line(error)})"
    return unsupported_error(name, model_type, reason)


def unsupported_error(name: str, model_type: str, reason: str) -> InputError:
    """Return the error that says why, and which file to write."""
    return InputError(
        f"LMM {name!r} has model_type {model_type!r}, which no family of flmm reads (see flmm"
        f" models), and the generic adapter cannot: {reason}; write"
        f" src/flmm/lmm/families/{model_type}.py for it, as llava.py is for LLaVA"
    )
