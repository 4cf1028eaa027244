"""Loading of an LMM's components from a folder or hub repository."""

from collections.abc import Callable
from typing import cast

from transformers.image_processing_backends import PilBackend
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.errors import InputError
from flmm.lmm.chat import load_tokenizer
from flmm.lmm.image_processing import load_image_processor
from flmm.lmm.placement import Placement


def load_components(
    model_class: type[PreTrainedModel], name: str, placement: Placement | None, revision: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, PilBackend]:
    """Load the model, placed on its devices, its tokenizer and its image processor.

    Raises:
        InputError: a file is missing or cannot be used, or a package that the placement needs is
            not installed.
    """
    placement = placement or Placement()
    # transformers types from_pretrained only for the settings of its configurations.
    load = cast(Callable[..., PreTrainedModel], model_class.from_pretrained)
    try:
        model = load(name, revision=revision or "main", **placement.from_pretrained_kwargs)
        image_processor = load_image_processor(name, revision)
        tokenizer = load_tokenizer(name, revision)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"LMM {name!r} cannot be loaded: {reason}") from error
    if placement.target_device is not None:
        model.to(placement.target_device)  # type: ignore[arg-type]
    return model, tokenizer, image_processor
