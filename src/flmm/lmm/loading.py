"""Loading of an LMM's components from a folder or hub repository."""

from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.errors import InputError, first_line
from flmm.lmm.chat import load_tokenizer
from flmm.lmm.image_processing import load_image_processor
from flmm.lmm.placement import Placement
from flmm.pretrained_weights import load_pretrained


def load_components(
    model_class: type[PreTrainedModel], name: str, placement: Placement | None, revision: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, BaseImageProcessor]:
    """Load the model, placed on its devices, its tokenizer and its image processor.

    Raises:
        InputError: a file is missing or cannot be used, a weight is missing or unknown, or a
            package that the placement needs is not installed.
    """
    placement = placement or Placement()
    # Before the weights, which take minutes.
    try:
        image_processor = load_image_processor(name, revision)
        tokenizer = load_tokenizer(name, revision)
    except InputError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"LMM {name!r} cannot be loaded: {first_line(error)}") from error
    model = load_pretrained(
        model_class, "LMM", name, revision=revision or "main", **placement.from_pretrained_kwargs
    )
    if placement.target_device is not None:
        model.to(placement.target_device)  # type: ignore[arg-type]
    return model, tokenizer, image_processor
