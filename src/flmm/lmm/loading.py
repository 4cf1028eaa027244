"""Loading of an LMM's components from a folder or hub repository."""

from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_utils import PreTrainedModel
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils.quantization_config import QuantizationConfigMixin

from flmm.errors import InputError, first_line
from flmm.lmm.chat import load_tokenizer
from flmm.lmm.image_processing import load_image_processor
from flmm.lmm.placement import Placement
from flmm.pretrained_weights import load_pretrained

_SKIPS = ("llm_int8_skip_modules", "modules_to_not_convert", "skip_modules")
"""The fields of transformers' quantisation configs for what keeps its weights."""


def load_components(
    model_class: type[PreTrainedModel], name: str, placement: Placement | None, revision: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, BaseImageProcessor]:
    """Load the model, placed on its devices, its tokenizer and its image processor.

    Raises:
        InputError: a file is missing or cannot be used, a weight is missing or unknown, a package
            that the placement needs is not installed, or it skips a module that is not there.
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
    if placement.quantization_config is not None:
        _check_skipped_modules(model, placement.quantization_config)
    return model, tokenizer, image_processor


def _check_skipped_modules(model: PreTrainedModel, config: QuantizationConfigMixin) -> None:
    """Check that each module that is to keep its weights is found by transformers.

    It looks for a name at the start or the end of a layer's full name, so that the name of a part
    without what it is in ("vision_tower") is found nowhere, and the part is quantised all the same.
    """
    skipped: list[str] = next(filter(None, (getattr(config, field, None) for field in _SKIPS)), [])
    names = [name for name, _ in model.named_modules()]
    layers = [name for name, module in model.named_modules() if not any(module.children())]
    for skip in skipped:
        if not all(should_convert_module(layer, [skip]) for layer in layers):
            continue
        parts = [name for name in names if name.endswith(f".{skip}")] or [
            name for name, _ in model.named_children()
        ]
        raise InputError(
            f"quantization_config skips {skip!r}, which is the whole name of no module of"
            f" {type(model).__name__}; give such as {parts[0]!r}, and 'lm_head' if it is to be"
            " skipped too"
        )
