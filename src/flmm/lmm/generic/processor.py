"""A model's own processor, which writes the image tokens into the text, for pictures alone."""

from collections.abc import Callable
from typing import cast

from transformers.configuration_utils import PreTrainedConfig
from transformers.image_processing_backends import PilBackend
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def load_processor(
    name: str,
    revision: str | None,
    config: PreTrainedConfig,
    image_processor: PilBackend,
    tokenizer: PreTrainedTokenizerBase,
) -> ProcessorMixin:
    """Load the processor in a folder or hub repository, with these parts of it.

    Parts for videos and sound are left out; transformers has them for torchvision or other packages
    only.

    Raises:
        OSError, ValueError, ImportError, AttributeError, TypeError, KeyError: it has none, or that
            cannot be used.
    """
    found = PROCESSOR_MAPPING.get(type(config), None)
    if not isinstance(found, type) or not issubclass(found, ProcessorMixin):
        raise ValueError(f"transformers has no processor for {config.model_type}")
    settings, _ = found.get_processor_dict(name, revision=revision)
    return build_processor(found, image_processor, tokenizer, settings)


def build_processor(
    processor_class: type[ProcessorMixin],
    image_processor: PilBackend,
    tokenizer: PreTrainedTokenizerBase,
    settings: dict[str, object],
) -> ProcessorMixin:
    """Build a processor from its parts for pictures and text, and its own settings."""
    # transformers refuses a processor without its part for videos.
    lenient = cast(
        type[ProcessorMixin],
        type(
            processor_class.__name__,
            (processor_class,),
            {"check_argument_for_proper_class": lambda *_: None},
        ),
    )
    parts = {"image_processor": image_processor, "tokenizer": tokenizer}
    list_parts = cast(Callable[[], list[str]], processor_class.get_attributes)
    build = cast(Callable[..., ProcessorMixin], lenient.from_args_and_dict)
    return build([parts.get(part) for part in list_parts()], settings)
