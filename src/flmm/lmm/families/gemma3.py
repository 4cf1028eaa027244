"""Gemma 3: one view of 256 pooled tokens with bidirectional attention to one another."""

import math
from typing import ClassVar, Self

from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.models.gemma3.configuration_gemma3 import Gemma3Config, Gemma3TextConfig
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.modeling_gemma3 import Gemma3ForConditionalGeneration
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig

from flmm.lmm.base import LMMAdapter
from flmm.lmm.image_processing import grid_view
from flmm.lmm.prompt import PictureLayout, ProcessedPicture
from flmm.lmm.tiles import stretched_geometry
from flmm.lmm.tiny_models import (
    find_token_id,
    random_model,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)

START_OF_IMAGE, END_OF_IMAGE = "<start_of_image>", "<end_of_image>"


class Gemma3Adapter(LMMAdapter):
    """Gemma 3 with pictures; most of its layers have sliding window attention."""

    model_types: ClassVar[tuple[str, ...]] = ("gemma3",)
    hub_ids: ClassVar[tuple[str, ...]] = ("google/gemma-3-4b-it",)
    model_class: ClassVar[type[PreTrainedModel]] = Gemma3ForConditionalGeneration
    token_type_input_names: tuple[str, ...] = ("token_type_ids",)

    @property
    def placeholder(self) -> str:
        return START_OF_IMAGE

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        config = self.model.config
        canvas = int(config.vision_config.image_size)
        side = math.isqrt(int(config.mm_tokens_per_image))
        view = grid_view(stretched_geometry(picture.size, (canvas, canvas), (side, side)))
        return PictureLayout(
            f"\n\n{START_OF_IMAGE}{self.image_token * side**2}{END_OF_IMAGE}\n\n", (view,)
        )

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer("<image_soft_token>", START_OF_IMAGE, END_OF_IMAGE)
        sizes = tiny_text_config(tokenizer, grouped_queries)
        config = Gemma3Config(
            vision_config=SiglipVisionConfig(
                **tiny_vision_config(32, 4),
                vision_use_head=False,
            ),
            text_config=Gemma3TextConfig(
                **sizes,
                head_dim=8,
                query_pre_attn_scalar=8,
                sliding_window=24,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            ),
            mm_tokens_per_image=16,
            boi_token_index=find_token_id(tokenizer, START_OF_IMAGE),
            eoi_token_index=find_token_id(tokenizer, END_OF_IMAGE),
            image_token_index=find_token_id(tokenizer, "<image_soft_token>"),
        )

        def build() -> Gemma3ForConditionalGeneration:
            model = Gemma3ForConditionalGeneration(config)
            # transformers initialises this with zeros, which would erase the pictures.
            nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.3)
            return model

        model = random_model(build)
        processor = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
        return cls(model, tokenizer, processor, name="tiny-gemma-3")
