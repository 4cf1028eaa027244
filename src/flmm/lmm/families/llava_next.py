"""LLaVA-NeXT (LLaVA 1.6): a coarse view, and tiles that fit the picture's shape."""

from typing import ClassVar, Self

from transformers.modeling_utils import PreTrainedModel
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llava_next.configuration_llava_next import LlavaNextConfig
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_next.modeling_llava_next import LlavaNextForConditionalGeneration

from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import PictureLayout, ProcessedPicture
from flmm.lmm.tiles import any_resolution_views
from flmm.lmm.tiny_models import (
    find_token_id,
    random_model,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)


class LlavaNextAdapter(LMMAdapter):
    """LLaVA-NeXT with Vicuna, Mistral or another LLM."""

    model_types: ClassVar[tuple[str, ...]] = ("llava_next",)
    hub_ids: ClassVar[tuple[str, ...]] = (
        "llava-hf/llava-v1.6-vicuna-7b-hf",
        "llava-hf/llava-v1.6-mistral-7b-hf",
    )
    model_class: ClassVar[type[PreTrainedModel]] = LlavaNextForConditionalGeneration
    views: int = 2
    image_input_names: tuple[str, ...] = ("pixel_values", "image_sizes")

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        config = self.model.config
        tile = int(config.vision_config.image_size)
        side = tile // int(config.vision_config.patch_size)
        views = any_resolution_views(picture.size, config.image_grid_pinpoints, tile, side, None)
        # The last row's newline follows its last cell.
        return PictureLayout(self.image_token * (int(views[-1].token_positions.max()) + 2), views)

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer("<image>")
        resolutions = [[16, 32], [32, 16], [32, 32], [48, 16], [16, 48]]
        config = LlavaNextConfig(
            vision_config=CLIPVisionConfig(**tiny_vision_config(16, 4)),
            text_config=LlamaConfig(**tiny_text_config(tokenizer, grouped_queries)),
            image_token_index=find_token_id(tokenizer, "<image>"),
            image_grid_pinpoints=resolutions,
            vision_feature_layer=-1,
        )
        model = random_model(lambda: LlavaNextForConditionalGeneration(config))
        processor = LlavaNextImageProcessorPil(
            size={"shortest_edge": 16},
            crop_size={"height": 16, "width": 16},
            image_grid_pinpoints=resolutions,
        )
        return cls(model, tokenizer, processor, name="tiny-llava-next")
