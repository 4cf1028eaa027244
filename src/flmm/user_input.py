"""What the user says - models, devices, types, questions, phrases - checked and understood."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flmm.errors import InputError

if TYPE_CHECKING:
    import torch

EMBEDDED_MODEL_FOLDER = Path(__file__).parent / "assets" / "embedded"
"""Its sub-folders are what ``embedded:NAME`` names."""
EMBEDDED_HEAD = "embedded:head"
"""The name of the head that comes with the package."""

_DTYPES = ("float32", "bfloat16", "float16")


def find_embedded_models() -> dict[str, Path]:
    """What comes with the package: names such as "embedded:head", and their folders."""
    folders = sorted(entry for entry in EMBEDDED_MODEL_FOLDER.glob("*") if entry.is_dir())
    return {f"embedded:{folder.name}": folder for folder in folders}


def find_model(name: str) -> str:
    """The folder of what comes with the package ("embedded:head"); other names as they are.

    Raises:
        InputError: the package has no such part.
    """
    if not name.startswith("embedded:"):
        return name
    parts = find_embedded_models()
    if name not in parts:
        raise InputError(
            f"there is no {name!r} in this installation; it has {', '.join(parts) or 'none'}"
        )
    return str(parts[name])


def find_device(device: "str | torch.device | None") -> "torch.device":
    """The device, tried out; None means the GPU when there is one.

    Raises:
        InputError: it cannot be used here.
    """
    import torch  # seconds, which those who only misspell a file's name shall not wait

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device {str(device)!r} cannot be used here; choose 'cpu', or 'cuda' with a GPU"
        ) from error
    return chosen


def find_dtype(dtype: "str | torch.dtype | None") -> "torch.dtype | None":
    """The type; None leaves the choice to the LMM's family.

    Raises:
        InputError: it is unknown.
    """
    if not isinstance(dtype, str):
        return dtype
    if dtype not in _DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; choose one of {', '.join(_DTYPES)}")
    import torch

    named: torch.dtype = getattr(torch, dtype)
    return named


def check_text(kind: str, text: str) -> str:
    """The text as it is.

    Raises:
        InputError: it is blank, or no whole Unicode.
    """
    if not text.strip():
        raise InputError(f"the {kind} is empty; write one")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the {kind} {text!r} is not valid Unicode; write it in UTF-8") from error
    return text


def check_max_new_tokens(max_new_tokens: int) -> int:
    """The number as it is.

    Raises:
        InputError: no token may be said.
    """
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}; give at least 1")
    return max_new_tokens


def check_phrases(phrases: Sequence[str]) -> list[str]:
    """The phrases without outer blanks.

    Raises:
        InputError: there is none, one is blank, or it is one text in place of a list.
    """
    if isinstance(phrases, str):
        raise InputError(f"phrases is the text {phrases!r}; give a list, such as [{phrases!r}]")
    if not phrases:
        raise InputError("the list of phrases is empty; give at least one phrase")
    return [check_text("phrase", phrase).strip() for phrase in phrases]
