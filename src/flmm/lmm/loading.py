"""Loading of an LMM's components from a folder or hub repository."""

from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_utils import PreTrainedModel
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils.quantization_config import BitsAndBytesConfig

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
        InputError: a file is missing or cannot be used, a weight is missing or unknown, a package
            that the placement needs is not installed, or bitsandbytes is to skip what is not there.
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
    _check_skipped_modules(model)
    return model, tokenizer, image_processor


def _check_skipped_modules(model: PreTrainedModel) -> None:
    """Check that bitsandbytes' list of what keeps its weights names layers of the model.

    transformers looks for a name at the start or the end of a layer's full name. That of a part
    without what it is in ("vision_tower") is found nowhere, and the part would be quantised without
    a word. Other methods compare other names; a quantised checkpoint has its own list.
    """
    quantizer: HfQuantizer | None = getattr(model, "hf_quantizer", None)
    if quantizer is None or quantizer.pre_quantized:
        return
    if not isinstance(config := quantizer.quantization_config, BitsAndBytesConfig):
        return
    names = [name for name, _ in model.named_modules()]
    layers = [name for name, module in model.named_modules() if not any(module.children())]
    for skipped in config.llm_int8_skip_modules or ():
        if not all(should_convert_module(layer, [skipped]) for layer in layers):
            continue
        parts = [name for name in names if name.endswith(f".{skipped}")] or [
            name for name in names if name.count(".") == 1
        ]
        raise InputError(
            f"quantization_config skips {skipped!r}, but no layer's name begins or ends so; give"
            f" such as {', '.join(map(repr, parts))}, and 'lm_head' if it is to be skipped too"
        )
