"""GLM-4.6V."""

from typing import ClassVar, Self

from transformers.modeling_utils import PreTrainedModel
from transformers.models.glm46v.configuration_glm46v import Glm46VConfig
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil
from transformers.models.glm46v.modeling_glm46v import Glm46VForConditionalGeneration

from flmm.lmm.dynamic_resolution import DynamicResolutionAdapter, tiny_size_limits
from flmm.lmm.families.glm4v import tiny_tokenizer_and_config
from flmm.lmm.tiny_models import random_model


class Glm46VAdapter(DynamicResolutionAdapter):
    """GLM-4.6V."""

    model_types: ClassVar[tuple[str, ...]] = ("glm46v",)
    hub_ids: ClassVar[tuple[str, ...]] = ()
    model_class: ClassVar[type[PreTrainedModel]] = Glm46VForConditionalGeneration

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer, config = tiny_tokenizer_and_config(Glm46VConfig, grouped_queries)
        model = random_model(lambda: Glm46VForConditionalGeneration(config))
        processor = Glm46VImageProcessorPil(  # type: ignore[call-arg]
            patch_size=4, merge_size=2, size=tiny_size_limits(8)
        )
        return cls(model, tokenizer, processor, name="tiny-glm-4.6v")
