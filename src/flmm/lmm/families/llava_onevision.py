"""LLaVA-OneVision: LLaVA-NeXT's views for a single picture, one padded square each for several."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from PIL import Image
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel
from transformers.models.llava_onevision.configuration_llava_onevision import LlavaOnevisionConfig
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.llava_onevision.modeling_llava_onevision import (
    LlavaOnevisionForConditionalGeneration,
)
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig

from flmm.lmm.base import LMMAdapter
from flmm.lmm.image_processing import grid_view, square_padded_geometry
from flmm.lmm.prompt import PictureLayout, ProcessedPicture
from flmm.lmm.tiles import any_resolution_views
from flmm.lmm.tiny_models import (
    find_token_id,
    random_model,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)


class LlavaOnevisionAdapter(LMMAdapter):
    """LLaVA-OneVision; of several pictures in a conversation, each is one padded square."""

    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)
    hub_ids: ClassVar[tuple[str, ...]] = (
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    )
    model_class: ClassVar[type[PreTrainedModel]] = LlavaOnevisionForConditionalGeneration
    views: int = 2
    image_input_names: tuple[str, ...] = (
        "pixel_values",
        "image_sizes",
        "batch_num_images",
    )

    def process_pictures(self, pictures: Sequence[Image.Image]) -> Mapping[str, Tensor]:
        return self.run_image_processor([list(pictures)])

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        config = self.model.config
        tile = int(config.vision_config.image_size)
        side = tile // int(config.vision_config.patch_size)
        if len(picture.inputs["image_sizes"]) > 1:
            view = grid_view(square_padded_geometry(picture.size, tile, (side, side)))
            return PictureLayout(self.image_token * (side * side + 1), (view, view))
        max_tiles = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
        resolutions = config.image_grid_pinpoints
        views = any_resolution_views(picture.size, resolutions, tile, side, max_tiles)
        # The last row's newline follows its last cell.
        return PictureLayout(self.image_token * (int(views[-1].token_positions.max()) + 2), views)

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer("<image>", "<video>")
        resolutions = [[16 * rows, 16 * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
        config = LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(
                **tiny_vision_config(16, 4),
                vision_use_head=False,
            ),
            text_config=Qwen2Config(**tiny_text_config(tokenizer, grouped_queries)),
            image_token_index=find_token_id(tokenizer, "<image>"),
            video_token_index=find_token_id(tokenizer, "<video>"),
            image_grid_pinpoints=resolutions,
            vision_aspect_ratio="anyres_max_4",
        )
        model = random_model(lambda: LlavaOnevisionForConditionalGeneration(config))
        processor = LlavaOnevisionImageProcessorPil(
            size={"height": 16, "width": 16}, image_grid_pinpoints=resolutions
        )
        return cls(model, tokenizer, processor, name="tiny-llava-onevision")
