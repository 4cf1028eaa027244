"""GLM-4.1V and GLM-4.6V-Flash."""

from collections.abc import Callable
from typing import ClassVar, Self, TypeVar

from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.models.glm4v.configuration_glm4v import (
    Glm4vConfig,
    Glm4vTextConfig,
    Glm4vVisionConfig,
)
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.glm4v.modeling_glm4v import Glm4vForConditionalGeneration
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from flmm.lmm.dynamic_resolution import (
    DynamicResolutionAdapter,
    tiny_rope_parameters,
    tiny_size_limits,
)
from flmm.lmm.tiny_models import find_token_id, random_model, tiny_text_config, tiny_tokenizer

Config = TypeVar("Config", bound=PreTrainedConfig)


class Glm4vAdapter(DynamicResolutionAdapter):
    """GLM-4.1V and GLM-4.6V-Flash."""

    model_types: ClassVar[tuple[str, ...]] = ("glm4v",)
    hub_ids: ClassVar[tuple[str, ...]] = (
        "zai-org/GLM-4.6V-Flash",
        "zai-org/GLM-4.1V-9B-Thinking",
    )
    model_class: ClassVar[type[PreTrainedModel]] = Glm4vForConditionalGeneration

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer, config = tiny_tokenizer_and_config(Glm4vConfig, grouped_queries)
        model = random_model(lambda: Glm4vForConditionalGeneration(config))
        processor = Glm4vImageProcessorPil(  # type: ignore[call-arg]
            patch_size=4, merge_size=2, size=tiny_size_limits(8)
        )
        return cls(model, tokenizer, processor, name="tiny-glm-4v")


def tiny_tokenizer_and_config(
    make_config: Callable[..., Config], grouped_queries: bool
) -> tuple[PreTrainedTokenizerFast, Config]:
    """Build a tiny model's tokenizer and its configuration, in one of GLM's two classes."""
    tokenizer = tiny_tokenizer("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>")
    config = make_config(
        vision_config=Glm4vVisionConfig(
            depth=2,
            hidden_size=32,
            intermediate_size=64,
            num_heads=2,
            patch_size=4,
            image_size=32,
            spatial_merge_size=2,
            out_hidden_size=32,
        ).to_dict(),
        text_config=Glm4vTextConfig(  # type: ignore[misc]
            **tiny_text_config(tokenizer, grouped_queries), rope_parameters=tiny_rope_parameters()
        ).to_dict(),
        image_token_id=find_token_id(tokenizer, "<|image|>"),
        video_token_id=find_token_id(tokenizer, "<|video|>"),
        image_start_token_id=find_token_id(tokenizer, "<|begin_of_image|>"),
        image_end_token_id=find_token_id(tokenizer, "<|end_of_image|>"),
    )
    return tokenizer, config
