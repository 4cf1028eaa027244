"""Qwen3.5."""

from typing import ClassVar, Self

from transformers.modeling_utils import PreTrainedModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_5.configuration_qwen3_5 import (
    Qwen3_5Config,
    Qwen3_5TextConfig,
    Qwen3_5VisionConfig,
)
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5ForConditionalGeneration

from flmm.lmm.dynamic_resolution import (
    DynamicResolutionAdapter,
    tiny_rope_parameters,
    tiny_size_limits,
)
from flmm.lmm.tiny_models import find_token_id, random_model, tiny_text_config, tiny_tokenizer


class Qwen35Adapter(DynamicResolutionAdapter):
    """Qwen3.5, a hybrid LLM: most layers have linear attention, which cannot be recorded."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen3_5",)
    hub_ids: ClassVar[tuple[str, ...]] = ("Qwen/Qwen3.5-9B", "Qwen/Qwen3.5-27B")
    model_class: ClassVar[type[PreTrainedModel]] = Qwen3_5ForConditionalGeneration

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer(
            "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
        )
        config = Qwen3_5Config(
            vision_config=Qwen3_5VisionConfig(
                depth=2,
                hidden_size=32,
                intermediate_size=64,
                num_heads=2,
                patch_size=4,
                spatial_merge_size=2,
                out_hidden_size=32,
                num_position_embeddings=64,
            ).to_dict(),
            text_config=Qwen3_5TextConfig(
                **tiny_text_config(tokenizer, grouped_queries),
                rope_parameters={**tiny_rope_parameters(), "partial_rotary_factor": 1.0},
                head_dim=8,
                layer_types=["full_attention", "linear_attention", "full_attention"],
                linear_key_head_dim=8,
                linear_value_head_dim=8,
                linear_num_key_heads=2,
                linear_num_value_heads=4,
            ).to_dict(),
            image_token_id=find_token_id(tokenizer, "<|image_pad|>"),
            video_token_id=find_token_id(tokenizer, "<|video_pad|>"),
            vision_start_token_id=find_token_id(tokenizer, "<|vision_start|>"),
            vision_end_token_id=find_token_id(tokenizer, "<|vision_end|>"),
        )
        model = random_model(lambda: Qwen3_5ForConditionalGeneration(config))
        processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size=tiny_size_limits(8))
        return cls(model, tokenizer, processor, name="tiny-qwen3.5")
