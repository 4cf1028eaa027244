"""DeepSeek-VL 1.3B: one view, the picture padded to a square."""

from typing import ClassVar, Self

from transformers.modeling_utils import PreTrainedModel
from transformers.models.deepseek_vl.configuration_deepseek_vl import DeepseekVLConfig
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import (
    DeepseekVLImageProcessorPil,
)
from transformers.models.deepseek_vl.modeling_deepseek_vl import DeepseekVLForConditionalGeneration
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig

from flmm.lmm.base import LMMAdapter
from flmm.lmm.image_processing import grid_view, letterboxed_geometry
from flmm.lmm.prompt import PictureLayout, ProcessedPicture
from flmm.lmm.tiny_models import (
    find_token_id,
    random_model,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)


class DeepseekVLAdapter(LMMAdapter):
    """DeepSeek-VL with one vision tower."""

    model_types: ClassVar[tuple[str, ...]] = ("deepseek_vl",)
    hub_ids: ClassVar[tuple[str, ...]] = ("deepseek-community/deepseek-vl-1.3b-chat",)
    model_class: ClassVar[type[PreTrainedModel]] = DeepseekVLForConditionalGeneration

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        vision = self.model.config.vision_config
        canvas = int(vision.image_size)
        side = canvas // int(vision.patch_size)
        min_size = int(self.image_processor.to_dict()["min_size"])
        geometry = letterboxed_geometry(picture.size, canvas, min_size, (side, side))
        return PictureLayout(self.image_token * (side * side), (grid_view(geometry),))

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer("<image_placeholder>")
        config = DeepseekVLConfig(
            vision_config=SiglipVisionConfig(**tiny_vision_config(32, 4)),
            text_config=LlamaConfig(**tiny_text_config(tokenizer, grouped_queries)),
            image_token_id=find_token_id(tokenizer, "<image_placeholder>"),
        )
        model = random_model(lambda: DeepseekVLForConditionalGeneration(config))
        processor = DeepseekVLImageProcessorPil(size={"height": 32, "width": 32}, min_size=2)
        return cls(model, tokenizer, processor, name="tiny-deepseek-vl")
