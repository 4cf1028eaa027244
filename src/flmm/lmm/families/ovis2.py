"""Ovis2: a coarse view, then tiles, encoded with a visual vocabulary."""

import math
from typing import ClassVar, Self

from transformers.modeling_utils import PreTrainedModel
from transformers.models.ovis2.configuration_ovis2 import Ovis2Config, Ovis2VisionConfig
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil
from transformers.models.ovis2.modeling_ovis2 import Ovis2ForConditionalGeneration
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config

from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import PictureLayout, ProcessedPicture
from flmm.lmm.tiles import tiled_views
from flmm.lmm.tiny_models import (
    find_token_id,
    random_model,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)

INDICATOR_TOKENS = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")


class Ovis2Adapter(LMMAdapter):
    """Ovis2."""

    model_types: ClassVar[tuple[str, ...]] = ("ovis2",)
    hub_ids: ClassVar[tuple[str, ...]] = (
        "thisisiron/Ovis2-1B-hf",
        "thisisiron/Ovis2-2B-hf",
    )
    model_class: ClassVar[type[PreTrainedModel]] = Ovis2ForConditionalGeneration
    views: int = 2

    @property
    def placeholder(self) -> str:
        return "<image>"

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        vision = self.model.config.vision_config
        tile = int(vision.image_size)
        side = math.ceil(tile // int(vision.patch_size) / int(vision.hidden_stride))
        rows, columns = (int(count) for count in picture.inputs["grids"][picture.index])
        views = tiled_views(picture.size, tile, side, rows, columns, coarse_first=True)
        start, grid, next_column, next_row, end = INDICATOR_TOKENS
        cells = self.image_token * (side * side)
        text = f"{start}{cells}{grid}"
        if rows * columns > 1:
            text += next_row.join([next_column.join([cells] * columns)] * rows)
        return PictureLayout(text + end, views)

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer("<image>", "<IMG_ATOM>", *INDICATOR_TOKENS)
        sizes = tiny_text_config(tokenizer, grouped_queries)
        config = Ovis2Config(
            vision_config=Ovis2VisionConfig(
                **tiny_vision_config(16, 2),
                vocab_size=64,
                hidden_stride=2,
                initializer_range=0.3,
            ),
            text_config=Qwen2Config(**sizes),
            image_token_id=find_token_id(tokenizer, "<IMG_ATOM>"),
            visual_indicator_token_ids=[
                find_token_id(tokenizer, token) for token in INDICATOR_TOKENS
            ],
            vocab_size=sizes["vocab_size"],
            hidden_size=sizes["hidden_size"],
        )
        model = random_model(lambda: Ovis2ForConditionalGeneration(config))
        processor = Ovis2ImageProcessorPil(
            size={"height": 16, "width": 16}, crop_to_patches=True, max_patches=6
        )
        return cls(model, tokenizer, processor, name="tiny-ovis2")
