"""A model's own processor, which writes the image tokens into the text, for pictures alone."""

from collections.abc import Callable, Sequence
from typing import cast

from transformers.configuration_utils import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto.processing_auto import (
    PROCESSOR_MAPPING,
    processor_class_from_name,
)
from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def load_processor(
    name: str,
    revision: str | None,
    config: PreTrainedConfig,
    image_processor: BaseImageProcessor,
    tokenizer: PreTrainedTokenizerBase,
) -> ProcessorMixin:
    """Load the processor in a folder or hub repository, with these parts of it.

    Parts for videos and sound are left out; transformers has them for torchvision or other packages
    only.

    Raises:
        OSError, ValueError, ImportError, AttributeError, TypeError, KeyError: it has none, or that
            cannot be used.
    """
    settings, _ = ProcessorMixin.get_processor_dict(name, revision=revision)
    image_settings, _ = BaseImageProcessor.get_image_processor_dict(name, revision=revision)
    files = (settings, image_settings, tokenizer.init_kwargs)
    processor_class = _find_class([file.get("processor_class") for file in files], config)
    return build_processor(processor_class, image_processor, tokenizer, settings)


def _find_class(names: Sequence[object], config: PreTrainedConfig) -> type[ProcessorMixin]:
    """Return the class that a checkpoint's files name, or else the one of its model type."""
    find = cast(Callable[[str], object], processor_class_from_name)
    named = [find(name) for name in names if isinstance(name, str)]
    for found in (*named, PROCESSOR_MAPPING.get(type(config), None)):
        if isinstance(found, type) and issubclass(found, ProcessorMixin):
            return found
    raise ValueError(
        f"transformers has no processor for {config.model_type}, and none of processor_config.json,"
        " preprocessor_config.json and tokenizer_config.json names its processor_class"
    )


def build_processor(
    processor_class: type[ProcessorMixin],
    image_processor: BaseImageProcessor,
    tokenizer: PreTrainedTokenizerBase,
    settings: dict[str, object],
) -> ProcessorMixin:
    """Build a processor from its parts for pictures and text, and its own settings."""
    # transformers refuses a processor without its part for videos. Some read that part's settings
    # even if no video is given; the part for pictures has them too.
    lenient = cast(
        type[ProcessorMixin],
        type(
            processor_class.__name__,
            (processor_class,),
            {"check_argument_for_proper_class": lambda *_: None},
        ),
    )
    parts = {
        "image_processor": image_processor,
        "video_processor": image_processor,
        "tokenizer": tokenizer,
    }
    list_parts = cast(Callable[[], list[str]], processor_class.get_attributes)
    build = cast(Callable[..., ProcessorMixin], lenient.from_args_and_dict)
    return build([parts.get(part) for part in list_parts()], settings)
