"""Qwen2.5-VL."""

from typing import ClassVar, Self

from transformers.modeling_utils import PreTrainedModel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLVisionConfig,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from flmm.lmm.dynamic_resolution import (
    DynamicResolutionAdapter,
    tiny_rope_parameters,
    tiny_size_limits,
)
from flmm.lmm.tiny_models import find_token_id, random_model, tiny_text_config, tiny_tokenizer


class Qwen25VLAdapter(DynamicResolutionAdapter):
    """Qwen2.5-VL; its vision tower has window attention, which is not recorded."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_5_vl",)
    hub_ids: ClassVar[tuple[str, ...]] = (
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "Qwen/Qwen2.5-VL-7B-Instruct",
    )
    model_class: ClassVar[type[PreTrainedModel]] = Qwen2_5_VLForConditionalGeneration

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer(
            "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
        )
        config = Qwen2_5_VLConfig(
            vision_config=Qwen2_5_VLVisionConfig(
                depth=2,
                hidden_size=32,
                intermediate_size=64,
                num_heads=2,
                patch_size=4,
                spatial_merge_size=2,
                window_size=16,
                fullatt_block_indexes=[1],
                out_hidden_size=32,
            ).to_dict(),
            text_config=Qwen2_5_VLTextConfig(
                **tiny_text_config(tokenizer, grouped_queries),
                rope_parameters=tiny_rope_parameters(),
            ).to_dict(),
            image_token_id=find_token_id(tokenizer, "<|image_pad|>"),
            video_token_id=find_token_id(tokenizer, "<|video_pad|>"),
            vision_start_token_id=find_token_id(tokenizer, "<|vision_start|>"),
            vision_end_token_id=find_token_id(tokenizer, "<|vision_end|>"),
        )
        model = random_model(lambda: Qwen2_5_VLForConditionalGeneration(config))
        processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=tiny_size_limits(8))
        return cls(model, tokenizer, processor, name="tiny-qwen2.5-vl")
