"""Tiny random models of transformers' own types, made from their configuration classes."""

import datetime
import os
from collections.abc import Callable
from typing import Self, cast

import transformers
from tiny_torchvision_types import TORCHVISION_TYPES
from tiny_type_settings import CHATTING_TYPES, TINY_TYPES, TinyType
from transformers.configuration_utils import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.auto_mappings import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast
from transformers.utils.import_utils import is_torchvision_available

from flmm.lmm.generic.adapter import GenericAdapter
from flmm.lmm.generic.processor import build_processor, find_processor_class
from flmm.lmm.tiny_models import find_token_id, random_model, tiny_tokenizer

_READ_TYPES = {**TINY_TYPES, **TORCHVISION_TYPES}
_ALL_TYPES = {**_READ_TYPES, **CHATTING_TYPES}
# What tokenizers call their special tokens, which processors ask for.
_NAMED_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "boi_token": "<|vision_start|>",
    "eoi_token": "<|vision_end|>",
    "image_start_token": "<|vision_start|>",
    "image_end_token": "<|vision_end|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "image_break_token": "[IMG_BREAK]",
    "image_boundary_token": "<|vision_start|>",
    "start_image_token": "<|vision_start|>",
    "end_image_token": "<|vision_end|>",
    "context_image_token": "<|image_pad|>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
    "image_wrapper_token": "<|image token|>",
    "eof_token": "[IMG_END]",
    "video_start_token": "<|vision_start|>",
    "video_end_token": "<|vision_end|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "audio_token": "<|audio_pad|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}
_OTHER_TOKENS = ("<image>", "<|IMG_PATCH|>", "[IMG_BREAK]", "[IMG_END]", "<imgpad>")
_TEXT_SIZES = {
    "hidden_size": 32, "d_model": 32, "embed_dim": 32, "intermediate_size": 64,
    "num_hidden_layers": 3, "num_layers": 3, "depth": 2, "num_attention_heads": 4, "num_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 8192, "out_hidden_size": 32,
    "projection_dim": 32, "num_experts": 4, "n_routed_experts": 4, "num_local_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    # Prompts are longer than what these layers see.
    "sliding_window": 24, "attention_chunk_size": 24, "index_topk": 16,
    "image_size": 32, "patch_size": 4, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
_VISION_SIZES = {
    **_TEXT_SIZES, "num_hidden_layers": 2, "num_attention_heads": 2, "num_heads": 2, "head_dim": 16,
}  # fmt: skip


def tiny_type_adapter(model_type: str) -> type[GenericAdapter]:
    """Return an adapter class whose ``build_tiny`` builds a tiny model of the type."""

    class TinyTypeAdapter(GenericAdapter):
        @classmethod
        def build_tiny(cls, grouped_queries: bool = False) -> Self:
            del grouped_queries
            model, processor = _build(model_type)
            return cls(model, processor, f"tiny-{model_type}")

    return TinyTypeAdapter


def _build(model_type: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    tiny = _ALL_TYPES.get(model_type, TinyType())
    named_tokens = {**_NAMED_TOKENS, **tiny.tokens}
    tokens = dict.fromkeys((*named_tokens.values(), *_OTHER_TOKENS, *tiny.other_tokens))
    tokenizer = tiny_tokenizer(*tokens)
    for name, token in named_tokens.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", find_token_id(tokenizer, token))
    tokenizer.chat_template = tiny.chat_template
    config_class = CONFIG_MAPPING[model_type]
    config = config_class()
    for name, part_class in config_class.sub_configs.items():
        if "vision" in name and getattr(config, name) is None:
            setattr(config, name, part_class())
    _shrink(config, tokenizer, is_vision=False)
    for name in ("video_token_id", "vision_start_token_id", "vision_end_token_id",
                 "image_start_token_id", "image_end_token_id"):  # fmt: skip
        if hasattr(config, name):
            token = _NAMED_TOKENS[name.removesuffix("_id")]
            setattr(config, name, find_token_id(tokenizer, token))
    # After the others: some types name one token for pictures and videos.
    for name in ("image_token_id", "image_token_index"):
        if hasattr(config, name):
            setattr(config, name, find_token_id(tokenizer, tiny.image_token))
    for path, value in tiny.config.items():
        *parts, name = path.split(".")
        part = config
        for step in parts:
            part = getattr(part, step)
        if isinstance(value, str) and name.endswith("_token_id"):
            value = find_token_id(tokenizer, value)
        setattr(part, name, value)
    model_class = cast(
        Callable[[PreTrainedConfig], PreTrainedModel],
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[config_class],
    )
    model = random_model(lambda: model_class(config))
    images = _image_processor_class(model_type)(**tiny.images)
    processor_class = find_processor_class([tiny.processor_class], config)
    processor = build_processor(processor_class, images, tokenizer, dict(tiny.processor))
    return model, processor


def _shrink(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, is_vision: bool) -> None:
    sizes = _VISION_SIZES if is_vision else _TEXT_SIZES
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _shrink(value, tokenizer, is_vision or "vision" in name)
        elif name == "vocab_size" and isinstance(value, int):
            setattr(config, name, len(tokenizer))
        elif name == "initializer_range":
            # Larger than usual: with near-uniform attention, tests would miss mistakes.
            setattr(config, name, 0.3)
        elif name == "rope_parameters" and isinstance(value, dict) and "mrope_section" in value:
            # Time, height and width, of half a head's width.
            setattr(config, name, {**value, "mrope_section": [1, 1, 2]})
        elif name.endswith("layer_types") and isinstance(value, list):
            setattr(config, name, value[: sizes["num_hidden_layers"]])
        elif name in sizes and (type(value) is int or name.endswith("_id")):
            setattr(config, name, sizes[name])


def _image_processor_class(model_type: str) -> Callable[..., BaseImageProcessor]:
    own = _ALL_TYPES.get(model_type, TinyType()).image_processor
    names = {"pil": f"{own}Pil"} if own else IMAGE_PROCESSOR_MAPPING_NAMES[model_type]
    name = names["pil" if "pil" in names else "torchvision"]
    return cast(Callable[..., BaseImageProcessor], getattr(transformers, name))


def needs_torchvision(model_type: str) -> bool:
    """Tell whether transformers has the type's image processor for torchvision only."""
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {})
    return "torchvision" in names and "pil" not in names


def tested_types() -> list[str]:
    """Return a tenth of the types, another one every day.

    All with FLMM_ALL_TYPES set; with FLMM_TYPES, those that it names. Without torchvision, types
    are left out whose image processors need it.
    """
    if chosen := os.environ.get("FLMM_TYPES"):
        return chosen.split()
    types = [
        name
        for name in sorted(_READ_TYPES)
        if is_torchvision_available() or not needs_torchvision(name)
    ]
    if os.environ.get("FLMM_ALL_TYPES"):
        return types
    return types[datetime.date.today().toordinal() % 10 :: 10]
