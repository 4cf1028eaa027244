"""InternVL 2.5, 3 and 3.5: tiles, then a thumbnail of the whole picture."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from PIL import Image
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)
from transformers.models.internvl.configuration_internvl import InternVLConfig, InternVLVisionConfig
from transformers.models.internvl.modeling_internvl import InternVLForConditionalGeneration
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config

from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import PictureLayout, ProcessedPicture
from flmm.lmm.tiles import tiled_views
from flmm.lmm.tiny_models import find_token_id, random_model, tiny_text_config, tiny_tokenizer


class InternVLAdapter(LMMAdapter):
    """InternVL, whose patches are merged two by two by pixel shuffle."""

    model_types: ClassVar[tuple[str, ...]] = ("internvl",)
    hub_ids: ClassVar[tuple[str, ...]] = (
        "OpenGVLab/InternVL3-1B-hf",
        "OpenGVLab/InternVL3-8B-hf",
    )
    model_class: ClassVar[type[PreTrainedModel]] = InternVLForConditionalGeneration
    views: int = 2

    def process_pictures(self, pictures: Sequence[Image.Image]) -> Mapping[str, Tensor]:
        return self.run_image_processor(list(pictures), crop_to_patches=True)

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        config = self.model.config
        tile = int(config.vision_config.image_size[0])
        side = round(tile // int(config.vision_config.patch_size[0]) * config.downsample_ratio)
        tiles = int(picture.inputs["num_patches"][picture.index])
        rows, columns = 1, 1
        if tiles > 1:
            settings = self.image_processor.to_dict()
            columns, rows = get_optimal_tiled_canvas(
                picture.size, (tile, tile), settings["min_patches"], settings["max_patches"]
            )
        views = tiled_views(picture.size, tile, side, rows, columns, coarse_first=False)
        cells = self.image_token * (tiles * side * side)
        return PictureLayout(f"<img>{cells}</img>", views)

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer("<IMG_CONTEXT>", "<img>", "</img>")
        config = InternVLConfig(
            vision_config=InternVLVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=(16, 16),
                patch_size=(2, 2),
            ),
            text_config=Qwen2Config(**tiny_text_config(tokenizer, grouped_queries)),
            image_token_id=find_token_id(tokenizer, "<IMG_CONTEXT>"),
            image_seq_length=16,
        )
        model = random_model(lambda: InternVLForConditionalGeneration(config))
        processor = GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, max_patches=6)
        return cls(model, tokenizer, processor, name="tiny-internvl")
