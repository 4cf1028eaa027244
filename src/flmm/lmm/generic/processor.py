"""A model's own processor, which writes the image tokens into the text, for pictures alone."""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import cast

from transformers.configuration_utils import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto.auto_mappings import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.processing_auto import (
    PROCESSOR_MAPPING,
    processor_class_from_name,
)
from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils.import_utils import DummyObject


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
    processor_class = find_processor_class([file.get("processor_class") for file in files], config)
    return build_processor(processor_class, image_processor, tokenizer, settings)


def find_processor_class(names: Sequence[object], config: PreTrainedConfig) -> type[ProcessorMixin]:
    """Return the class that a checkpoint's files name, or else the one of its model type.

    Raises:
        ValueError: there is none.
    """
    find = cast(Callable[[str], object], processor_class_from_name)
    named = [find(name) for name in names if isinstance(name, str)]
    found: object
    for found in (*named, PROCESSOR_MAPPING.get(type(config), None)):
        is_hidden = isinstance(found, DummyObject)
        usable = _import_for_pil(getattr(found, "__name__", "")) if is_hidden else found
        if isinstance(usable, type) and issubclass(usable, ProcessorMixin):
            return usable
    raise ValueError(
        f"transformers has no processor for {config.model_type}, and none of processor_config.json,"
        " preprocessor_config.json and tokenizer_config.json names its processor_class"
    )


def _import_for_pil(class_name: str) -> object:
    """Import a processor class that transformers hides, since its file asks for torchvision.

    That file imports helpers of its image processor's torchvision version, which the PIL version
    has too; it stands in for the other during the import. None if that is not what is missing.
    """
    for model_type, listed in PROCESSOR_MAPPING_NAMES.items():
        module = model_type_to_module_name(model_type)
        folder = f"transformers.models.{module}"
        name, pil_name = (f"{folder}.image_processing_{kind}{module}" for kind in ("", "pil_"))
        if listed != class_name or not find_spec(folder) or not find_spec(pil_name):
            continue
        sys.modules[name] = importlib.import_module(pil_name)
        try:
            processing = importlib.import_module(f"{folder}.processing_{module}")
        finally:
            del sys.modules[name]
        found: object = getattr(processing, class_name)
        return found
    return None


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
