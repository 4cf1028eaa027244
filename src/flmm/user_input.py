"""Checks and conversions of user input: model names, devices, dtypes, texts, phrases."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

from flmm.errors import InputError

if TYPE_CHECKING:
    import torch

EMBEDDED_MODEL_FOLDER = Path(__file__).parent / "assets" / "embedded"
"""The folder of the embedded models; ``embedded:NAME`` means its sub-folder NAME."""
EMBEDDED_HEAD = "embedded:head"
"""The name of the embedded head."""
_EMBEDDED_SAM = "embedded:sam"

_DTYPES = ("float32", "bfloat16", "float16")


def is_embedded(name: str) -> bool:
    """Return whether a model's name is that of an embedded one."""
    return name.startswith("embedded:")


def find_embedded_models() -> dict[str, Path]:
    """Return the folders of the embedded models, by names such as "embedded:head"."""
    folders = sorted(entry for entry in EMBEDDED_MODEL_FOLDER.glob("*") if entry.is_dir())
    models = {f"embedded:{folder.name}": folder for folder in folders}
    # As a published head's, it lies inside the head's folder.
    sam = EMBEDDED_MODEL_FOLDER / "head" / "sam"
    return {**models, _EMBEDDED_SAM: sam} if sam.is_dir() else models


def resolve_model(name: str) -> str:
    """Return the folder of an embedded model ("embedded:head"); other names unchanged.

    Raises:
        InputError: there is no such embedded model.
    """
    if not is_embedded(name):
        return name
    models = find_embedded_models()
    if name not in models:
        raise InputError(
            f"there is no {name!r} in this installation; it has {', '.join(models) or 'none'}"
        )
    return str(models[name])


def resolve_device(device: "str | torch.device | None") -> "torch.device":
    """Return the device, tested; None means the GPU if there is one, else the CPU.

    Raises:
        InputError: it cannot be used here.
    """
    import torch  # takes seconds, so other input errors are reported without it

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch_device = torch.device(device)
        torch.empty(0, device=torch_device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device {str(device)!r} cannot be used here; choose 'cpu', or 'cuda' with a GPU"
        ) from error
    return torch_device


def parse_dtype(dtype: "str | torch.dtype | None") -> "torch.dtype | None":
    """Return the dtype; None leaves the choice to the LMM's adapter.

    Raises:
        InputError: it is unknown.
    """
    if not isinstance(dtype, str):
        return dtype
    check_dtype(dtype)
    import torch

    torch_dtype: torch.dtype = getattr(torch, dtype)
    return torch_dtype


def check_dtype(dtype: str | None) -> str | None:
    """Return the dtype's name unchanged, without importing torch; None is any.

    Raises:
        InputError: it is unknown.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; choose one of {', '.join(_DTYPES)}")
    return dtype


def check_text(kind: str, text: str) -> str:
    """Return the text unchanged; ``kind`` names it in messages.

    Raises:
        InputError: it is no text, blank, or not valid Unicode.
    """
    if not isinstance(text, str):
        raise InputError(f"the {kind} is of type {type(text).__name__!r}; give a text")
    if not text.strip():
        raise InputError(f"the {kind} is empty; write one")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the {kind} {text!r} is not valid Unicode; write it in UTF-8") from error
    return text


def check_max_new_tokens(max_new_tokens: int) -> int:
    """Return the number unchanged.

    Raises:
        InputError: it is no whole number, or less than 1.
    """
    if not isinstance(max_new_tokens, Integral) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens!r}; give at least 1")
    return max_new_tokens


def check_temperature(temperature: float) -> float:
    """Return the temperature of sampling unchanged.

    Raises:
        InputError: it is negative, or no finite number.
    """
    if not (isinstance(temperature, Real) and 0 <= temperature < math.inf):
        raise InputError(f"temperature is {temperature!r}; give 0 (no sampling) or more")
    return temperature


def check_seed(seed: int | None) -> int | None:
    """Return the seed of sampling unchanged; None is no seed.

    Raises:
        InputError: it is no whole number, or has more than 64 bits.
    """
    if seed is not None and not (isinstance(seed, Integral) and -(2**63) <= seed < 2**63):
        raise InputError(f"seed is {seed!r}; give a whole number of 64 bits, such as 1")
    return seed


def check_phrases(phrases: Sequence[str]) -> list[str]:
    """Return the phrases without outer white space.

    Raises:
        InputError: there are none, one is no text or blank, or it is no list.
    """
    if isinstance(phrases, str):
        raise InputError(f"phrases is the text {phrases!r}; give a list, such as [{phrases!r}]")
    if not isinstance(phrases, Sequence) or isinstance(phrases, bytes):
        raise InputError(f"phrases is of type {type(phrases).__name__!r}; give a list of texts")
    if not phrases:
        raise InputError("the list of phrases is empty; give at least one phrase")
    return [check_text("phrase", phrase).strip() for phrase in phrases]
