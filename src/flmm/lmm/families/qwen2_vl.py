"""Qwen2-VL."""

from typing import ClassVar, Self

from transformers.modeling_utils import PreTrainedModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import (
    Qwen2VLConfig,
    Qwen2VLTextConfig,
    Qwen2VLVisionConfig,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLForConditionalGeneration

from flmm.lmm.dynamic_resolution import (
    DynamicResolutionAdapter,
    tiny_rope_parameters,
    tiny_size_limits,
)
from flmm.lmm.tiny_models import find_token_id, random_model, tiny_text_config, tiny_tokenizer


class Qwen2VLAdapter(DynamicResolutionAdapter):
    """Qwen2-VL."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl",)
    hub_ids: ClassVar[tuple[str, ...]] = (
        "Qwen/Qwen2-VL-2B-Instruct",
        "Qwen/Qwen2-VL-7B-Instruct",
    )
    model_class: ClassVar[type[PreTrainedModel]] = Qwen2VLForConditionalGeneration

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer(
            "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
        )
        config = Qwen2VLConfig(
            vision_config=Qwen2VLVisionConfig(
                depth=2,
                embed_dim=32,
                hidden_size=32,
                num_heads=2,
                mlp_ratio=2,
                patch_size=4,
                spatial_merge_size=2,
            ).to_dict(),
            text_config=Qwen2VLTextConfig(
                **tiny_text_config(tokenizer, grouped_queries),
                rope_parameters=tiny_rope_parameters(),
            ).to_dict(),
            image_token_id=find_token_id(tokenizer, "<|image_pad|>"),
            video_token_id=find_token_id(tokenizer, "<|video_pad|>"),
            vision_start_token_id=find_token_id(tokenizer, "<|vision_start|>"),
            vision_end_token_id=find_token_id(tokenizer, "<|vision_end|>"),
        )
        model = random_model(lambda: Qwen2VLForConditionalGeneration(config))
        processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=tiny_size_limits(8))
        return cls(model, tokenizer, processor, name="tiny-qwen2-vl")
