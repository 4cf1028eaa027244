"""Random LMMs of real sizes: their text is meaningless, their time and memory are real."""

from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlavaConfig, LlavaNextConfig, Qwen2Config
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_next.modeling_llava_next import LlavaNextForConditionalGeneration

from flmm.lmm.base import LMMAdapter
from flmm.lmm.families.llava import LlavaAdapter
from flmm.lmm.families.llava_next import LlavaNextAdapter
from flmm.lmm.tiny_models import find_token_id, random_model, tiny_tokenizer, tiny_vision_config

ImageTokens = Literal[576, 2880]
"""One view of 24×24 tokens, or one view and four tiles of 24×24 each."""

_TILE, _PATCH = 336, 14


@dataclass(frozen=True)
class LLMSize:
    """The sizes of a Qwen2 LLM."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary_size: int


HALF_BILLION = LLMSize(896, 4864, 24, 14, 2, 151_936)
"""Qwen2-0.5B."""
SMALL = LLMSize(64, 128, 3, 4, 2, 1000)
"""A tiny size, to test the benchmark itself."""


def build_random_lmm(image_tokens: ImageTokens, size: LLMSize, dtype: torch.dtype) -> LMMAdapter:
    """Return a random LLaVA (576 image tokens) or LLaVA-NeXT (2,880) that never generates EOS.

    Its vision tower is tiny, so that nearly all measured time is the LLM's.
    """
    tokenizer = tiny_tokenizer("<image>")
    text = Qwen2Config(
        vocab_size=size.vocabulary_size,
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    vision = CLIPVisionConfig(**tiny_vision_config(_TILE, _PATCH))
    image = find_token_id(tokenizer, "<image>")
    resize, crop = {"shortest_edge": _TILE}, {"height": _TILE, "width": _TILE}
    if image_tokens == 576:
        config = LlavaConfig(
            vision_config=vision, text_config=text, image_token_index=image, vision_feature_layer=-1
        )
        return LlavaAdapter(
            random_model(lambda: LlavaForConditionalGeneration(config)).to(dtype),  # type: ignore[arg-type]
            tokenizer,
            CLIPImageProcessorPil(size=resize, crop_size=crop),
            "random-llava",
        )
    grid_sizes = [[2 * _TILE, 2 * _TILE]]
    next_config = LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image,
        vision_feature_layer=-1,
        image_grid_pinpoints=grid_sizes,
    )
    return LlavaNextAdapter(
        random_model(lambda: LlavaNextForConditionalGeneration(next_config)).to(dtype),  # type: ignore[arg-type]
        tokenizer,
        LlavaNextImageProcessorPil(size=resize, crop_size=crop, image_grid_pinpoints=grid_sizes),
        "random-llava-next",
    )


def build_picture() -> Image.Image:
    """Return a square picture, which fills every tile."""
    return Image.new("RGB", (2 * _TILE, 2 * _TILE), (90, 140, 60))
