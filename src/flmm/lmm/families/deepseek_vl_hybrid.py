"""DeepSeek-VL 7B: SAM's tower on a large canvas, SigLIP's on a small one, one grid of tokens."""

from typing import ClassVar, Self

from transformers.modeling_utils import PreTrainedModel
from transformers.models.deepseek_vl_hybrid.configuration_deepseek_vl_hybrid import (
    DeepseekVLHybridConfig,
)
from transformers.models.deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid import (
    DeepseekVLHybridImageProcessorPil,
)
from transformers.models.deepseek_vl_hybrid.modeling_deepseek_vl_hybrid import (
    DeepseekVLHybridForConditionalGeneration,
)
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.sam.configuration_sam import SamVisionConfig
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


class DeepseekVLHybridAdapter(LMMAdapter):
    """DeepSeek-VL with two vision towers."""

    model_types: ClassVar[tuple[str, ...]] = ("deepseek_vl_hybrid",)
    hub_ids: ClassVar[tuple[str, ...]] = ("deepseek-community/deepseek-vl-7b-chat",)
    model_class: ClassVar[type[PreTrainedModel]] = DeepseekVLHybridForConditionalGeneration
    image_input_names: tuple[str, ...] = ("pixel_values", "high_res_pixel_values")

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        config = self.model.config
        side = int(config.vision_config.image_size) // int(config.vision_config.patch_size)
        # The small canvas is resized from the large one, where the geometry is in whole pixels.
        canvas = int(config.high_res_vision_config.image_size)
        min_size = int(self.image_processor.to_dict()["min_size"])
        geometry = letterboxed_geometry(picture.size, canvas, min_size, (side, side))
        return PictureLayout(self.image_token * (side * side), (grid_view(geometry),))

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer("<image_placeholder>")
        config = DeepseekVLHybridConfig(
            vision_config=SiglipVisionConfig(**tiny_vision_config(32, 8)),
            high_res_vision_config=SamVisionConfig(
                hidden_size=16,
                output_channels=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=64,
                patch_size=4,
                window_size=8,
                global_attn_indexes=[0],
                mlp_dim=32,
            ),
            text_config=LlamaConfig(**tiny_text_config(tokenizer, grouped_queries)),
            image_token_id=find_token_id(tokenizer, "<image_placeholder>"),
        )
        model = random_model(lambda: DeepseekVLHybridForConditionalGeneration(config))
        processor = DeepseekVLHybridImageProcessorPil(
            size={"height": 32, "width": 32},
            high_res_size={"height": 64, "width": 64},
            min_size=2,
        )
        return cls(model, tokenizer, processor, name="tiny-deepseek-vl-hybrid")
