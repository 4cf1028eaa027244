"""SmolVLM and SmolVLM2: Idefics3's tiles with a smaller LLM."""

from typing import ClassVar, Self

from transformers.modeling_utils import PreTrainedModel
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMConfig, SmolVLMVisionConfig
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMForConditionalGeneration

from flmm.lmm.families.idefics3 import Idefics3Adapter, tile_marker_tokens
from flmm.lmm.tiny_models import (
    find_token_id,
    random_model,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)


class SmolVLMAdapter(Idefics3Adapter):
    """SmolVLM and SmolVLM2."""

    model_types: ClassVar[tuple[str, ...]] = ("smolvlm",)
    hub_ids: ClassVar[tuple[str, ...]] = ("HuggingFaceTB/SmolVLM2-2.2B-Instruct",)
    model_class: ClassVar[type[PreTrainedModel]] = SmolVLMForConditionalGeneration

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer("<image>", *tile_marker_tokens())
        config = SmolVLMConfig(
            vision_config=SmolVLMVisionConfig(**tiny_vision_config(16, 2)),
            text_config=LlamaConfig(**tiny_text_config(tokenizer, grouped_queries)),
            image_token_id=find_token_id(tokenizer, "<image>"),
        )
        model = random_model(lambda: SmolVLMForConditionalGeneration(config))
        processor = SmolVLMImageProcessorPil(
            size={"longest_edge": 48}, max_image_size={"longest_edge": 16}
        )
        return cls(model, tokenizer, processor, name="tiny-smolvlm")
