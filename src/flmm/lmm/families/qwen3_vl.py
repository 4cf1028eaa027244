"""Qwen3-VL."""

from typing import ClassVar, Self

from transformers.modeling_utils import PreTrainedModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.configuration_qwen3_vl import (
    Qwen3VLConfig,
    Qwen3VLTextConfig,
    Qwen3VLVisionConfig,
)
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from flmm.lmm.dynamic_resolution import (
    DynamicResolutionAdapter,
    tiny_rope_parameters,
    tiny_size_limits,
)
from flmm.lmm.tiny_models import find_token_id, random_model, tiny_text_config, tiny_tokenizer


class Qwen3VLAdapter(DynamicResolutionAdapter):
    """Qwen3-VL; the LLM's first layers also take features of inner vision layers (DeepStack)."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl",)
    hub_ids: ClassVar[tuple[str, ...]] = (
        "Qwen/Qwen3-VL-4B-Instruct",
        "Qwen/Qwen3-VL-8B-Instruct",
    )
    model_class: ClassVar[type[PreTrainedModel]] = Qwen3VLForConditionalGeneration

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer(
            "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
        )
        config = Qwen3VLConfig(
            vision_config=Qwen3VLVisionConfig(
                depth=3,
                hidden_size=32,
                intermediate_size=64,
                num_heads=2,
                patch_size=4,
                spatial_merge_size=2,
                out_hidden_size=32,
                num_position_embeddings=64,
                deepstack_visual_indexes=[0, 1],
            ).to_dict(),
            text_config=Qwen3VLTextConfig(  # type: ignore[misc]
                **tiny_text_config(tokenizer, grouped_queries),
                rope_parameters=tiny_rope_parameters(),
                head_dim=8,
            ).to_dict(),
            image_token_id=find_token_id(tokenizer, "<|image_pad|>"),
            video_token_id=find_token_id(tokenizer, "<|video_pad|>"),
            vision_start_token_id=find_token_id(tokenizer, "<|vision_start|>"),
            vision_end_token_id=find_token_id(tokenizer, "<|vision_end|>"),
        )
        model = random_model(lambda: Qwen3VLForConditionalGeneration(config))
        processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=tiny_size_limits(8))
        return cls(model, tokenizer, processor, name="tiny-qwen3-vl")
