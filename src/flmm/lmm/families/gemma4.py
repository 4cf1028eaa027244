"""Gemma 4: a grid of the picture's shape, patches pooled three by three."""

from typing import ClassVar, Self

from transformers.modeling_utils import PreTrainedModel
from transformers.models.gemma4.configuration_gemma4 import (
    Gemma4Config,
    Gemma4TextConfig,
    Gemma4VisionConfig,
)
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.gemma4.modeling_gemma4 import Gemma4ForConditionalGeneration

from flmm.lmm.base import LMMAdapter
from flmm.lmm.image_processing import grid_view
from flmm.lmm.prompt import PictureLayout, ProcessedPicture
from flmm.lmm.tiles import stretched_geometry
from flmm.lmm.tiny_models import find_token_id, random_model, tiny_text_config, tiny_tokenizer


class Gemma4Adapter(LMMAdapter):
    """Gemma 4 with pictures."""

    model_types: ClassVar[tuple[str, ...]] = ("gemma4",)
    hub_ids: ClassVar[tuple[str, ...]] = ("google/gemma-4-E2B-it",)
    model_class: ClassVar[type[PreTrainedModel]] = Gemma4ForConditionalGeneration
    image_input_names: tuple[str, ...] = ("pixel_values", "image_position_ids")
    token_type_input_names: tuple[str, ...] = ("mm_token_type_ids",)

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        config = self.model.config
        vision = config.vision_config
        patch, pool = int(vision.patch_size), int(vision.pooling_kernel_size)
        columns, rows = (
            picture.inputs["image_position_ids"][picture.index].amax(dim=0) + 1
        ).tolist()
        grid = (rows // pool, columns // pool)
        view = grid_view(stretched_geometry(picture.size, (rows * patch, columns * patch), grid))
        begin, end = (
            self.tokenizer.convert_ids_to_tokens(int(token_id))
            for token_id in (config.boi_token_id, config.eoi_token_id)
        )
        return PictureLayout(f"{begin}{self.image_token * (grid[0] * grid[1])}{end}", (view,))

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer("<|image|>", "<|image>", "<image|>", "<|video|>", "<|audio|>")
        sizes = tiny_text_config(tokenizer, grouped_queries)
        config = Gemma4Config(
            vision_config=Gemma4VisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=16,
                patch_size=2,
                pooling_kernel_size=2,
                position_embedding_size=512,
            ),
            text_config=Gemma4TextConfig(  # type: ignore[call-arg]
                **sizes,
                head_dim=8,
                global_head_dim=8,
                sliding_window=24,
                vocab_size_per_layer_input=sizes["vocab_size"],
                hidden_size_per_layer_input=8,
                layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            ),
            audio_config=None,
            boi_token_id=find_token_id(tokenizer, "<|image>"),
            eoi_token_id=find_token_id(tokenizer, "<image|>"),
            image_token_id=find_token_id(tokenizer, "<|image|>"),
            video_token_id=find_token_id(tokenizer, "<|video|>"),
            audio_token_id=find_token_id(tokenizer, "<|audio|>"),
        )
        model = random_model(lambda: Gemma4ForConditionalGeneration(config))
        processor = Gemma4ImageProcessorPil(patch_size=2, pooling_kernel_size=2, max_soft_tokens=70)
        return cls(model, tokenizer, processor, name="tiny-gemma-4")
