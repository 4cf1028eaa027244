"""The list of segmenter families, and loading a segmenter with its family's class."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from flmm.errors import InputError
from flmm.lmm.model_families import ModelFamily, list_families_in
from flmm.lmm.model_type import expand_home, read_model_type
from flmm.user_input import resolve_model

if TYPE_CHECKING:
    from flmm.segmenters.base import Segmenter


def list_segmenter_families() -> tuple[ModelFamily, ...]:
    """Return every family, sorted by module name; imports neither torch nor transformers."""
    return list_families_in("flmm.segmenters")


def load_segmenter_class(family: ModelFamily) -> "type[Segmenter]":
    """Import the family's module and return its class."""
    return cast("type[Segmenter]", family.load_class())


def load_segmenter(name: str | Path) -> "Segmenter":
    """Load the SAM in a folder or hub repository, in float32; safetensors only, never a pickle.

    Args:
        name: a folder, a hub id, or "embedded:sam".

    Raises:
        InputError: there is none, it is of no supported family, or its weights are not whole.
    """
    import torch

    from flmm.pretrained_weights import load_pretrained

    name = expand_home(resolve_model(str(name)))
    model_type = read_model_type(name, role="SAM")
    families = list_segmenter_families()
    for family in families:
        if model_type in family.model_types:
            break
    else:
        supported = ", ".join(kind for family in families for kind in family.model_types)
        raise InputError(
            f"the SAM {name!r} is a model of type {model_type!r}; give one of type {supported}"
        )
    segmenter_class = load_segmenter_class(family)
    # The file may be in half precision, which does not run on a CPU.
    sam = load_pretrained(
        segmenter_class.model_class, "SAM", name, use_safetensors=True, dtype=torch.float32
    )
    return segmenter_class(sam)
