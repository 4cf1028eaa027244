"""Idefics3 and SmolVLM: rows of marked tiles, then the whole picture."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from PIL import Image
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel
from transformers.models.idefics3.configuration_idefics3 import Idefics3Config, Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.modeling_idefics3 import Idefics3ForConditionalGeneration
from transformers.models.llama.configuration_llama import LlamaConfig

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

FAKE_IMAGE_TOKEN, GLOBAL_IMAGE_TOKEN = "<fake_token_around_image>", "<global-img>"


class Idefics3Adapter(LMMAdapter):
    """Idefics3, whose patches are merged by pixel shuffle."""

    model_types: ClassVar[tuple[str, ...]] = ("idefics3",)
    hub_ids: ClassVar[tuple[str, ...]] = (
        "HuggingFaceM4/Idefics3-8B-Llama3",
        "HuggingFaceTB/SmolVLM-Instruct",
    )
    model_class: ClassVar[type[PreTrainedModel]] = Idefics3ForConditionalGeneration
    views: int = 2
    image_input_names: tuple[str, ...] = ("pixel_values", "pixel_attention_mask")

    def process_pictures(self, pictures: Sequence[Image.Image]) -> Mapping[str, Tensor]:
        return self.run_image_processor([list(pictures)], return_row_col_info=True)

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        config = self.model.config
        tile = int(config.vision_config.image_size)
        side = tile // int(config.vision_config.patch_size) // int(config.scale_factor)
        rows, columns = (int(picture.inputs[name][0][picture.index]) for name in ("rows", "cols"))
        cells = self.image_token * (side * side)
        text = ""
        for row in range(rows):
            text += "".join(
                f"{FAKE_IMAGE_TOKEN}<row_{row + 1}_col_{column + 1}>{cells}"
                for column in range(columns)
            )
            text += "\n"
        text += (
            "\n" if rows else ""
        ) + f"{FAKE_IMAGE_TOKEN}{GLOBAL_IMAGE_TOKEN}{cells}{FAKE_IMAGE_TOKEN}"
        views = tiled_views(
            picture.size, tile, side, max(rows, 1), max(columns, 1), coarse_first=False
        )
        return PictureLayout(text, views)

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer("<image>", *tile_marker_tokens())
        config = Idefics3Config(
            vision_config=Idefics3VisionConfig(**tiny_vision_config(16, 2)),
            text_config=LlamaConfig(**tiny_text_config(tokenizer, grouped_queries)),
            image_token_id=find_token_id(tokenizer, "<image>"),
        )
        model = random_model(lambda: Idefics3ForConditionalGeneration(config))
        processor = Idefics3ImageProcessorPil(
            size={"longest_edge": 48}, max_image_size={"longest_edge": 16}
        )
        return cls(model, tokenizer, processor, name="tiny-idefics3")


def tile_marker_tokens() -> list[str]:
    """Return the special tokens around the tiles of a picture of at most 4 × 4 tiles."""
    numbers = [(row, column) for row in range(1, 5) for column in range(1, 5)]
    return [
        FAKE_IMAGE_TOKEN,
        GLOBAL_IMAGE_TOKEN,
        *(f"<row_{row}_col_{column}>" for row, column in numbers),
    ]
