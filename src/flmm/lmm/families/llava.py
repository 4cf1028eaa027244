"""LLaVA 1.5 and similar models: transformers' ``LlavaForConditionalGeneration``.

One square view of the picture, CLIP or SigLIP as vision encoder, any decoder-only LLM.
"""

from typing import ClassVar, Self

from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_utils import PreTrainedModel
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llava.configuration_llava import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.lmm.image_processing import PreprocessingSteps, grid_view
from flmm.lmm.prompt import PictureLayout, ProcessedPicture
from flmm.lmm.tiny_models import (
    find_token_id,
    random_model,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)


class LlavaAdapter(LMMAdapter):
    """LLaVA: ``h·w`` image tokens, row by row, in place of one ``<image>``."""

    model_types: ClassVar[tuple[str, ...]] = ("llava",)
    hub_ids: ClassVar[tuple[str, ...]] = (
        "llava-hf/llava-1.5-7b-hf",
        "llava-hf/llava-1.5-13b-hf",
    )
    model_class: ClassVar[type[PreTrainedModel]] = LlavaForConditionalGeneration

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: BaseImageProcessor,
        name: str,
        revision: str | None = None,
    ) -> None:
        super().__init__(model, tokenizer, image_processor, name, revision)
        self._preprocessing_steps = PreprocessingSteps.from_image_processor(image_processor)
        config = model.config
        assert isinstance(config, LlavaConfig)
        vision = config.vision_config
        if not isinstance(vision, CLIPVisionConfig | SiglipVisionConfig):
            raise InputError(
                f"LMM {name!r} has a vision tower that flmm cannot read;"
                " choose a LLaVA with a CLIP or SigLIP vision tower"
            )
        assert isinstance(vision.patch_size, int)
        assert isinstance(vision.image_size, int)
        self._patch_size = vision.patch_size
        self._canvas_size = (vision.image_size, vision.image_size)
        class_tokens = 1 if isinstance(vision, CLIPVisionConfig) else 0
        dropped_tokens = 1 if config.vision_feature_select_strategy == "default" else 0
        self._leading_tokens = class_tokens - dropped_tokens
        if self._leading_tokens < 0:
            raise InputError(
                f"LMM {name!r} drops a class token that SigLIP does not have;"
                " set vision_feature_select_strategy to 'full' in its config.json"
            )
        _ = self.image_token  # Raises InputError if the tokenizer lacks it.

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        geometry = self._preprocessing_steps.compute_geometry(picture.size, self._patch_size)
        canvas = tuple(picture.inputs["pixel_values"].shape[-2:])
        assert canvas == geometry.canvas, f"{geometry}, but the image processor made {canvas}"
        if geometry.canvas != self._canvas_size:
            raise InputError(
                f"LMM {self.name!r}: its image processor makes {geometry.canvas} pixels but its"
                f" vision tower reads {self._canvas_size}; mend size and crop_size in its"
                " preprocessor_config.json"
            )
        view = grid_view(geometry, self._leading_tokens)
        return PictureLayout(self.image_token * (int(view.token_positions.max()) + 1), (view,))

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer("<image>")
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(**tiny_vision_config(32, 4)),
            text_config=LlamaConfig(**tiny_text_config(tokenizer, grouped_queries)),
            image_token_index=find_token_id(tokenizer, "<image>"),
            vision_feature_layer=-1,
        )
        model = random_model(lambda: LlavaForConditionalGeneration(config))
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
        return cls(model, tokenizer, processor, name="tiny-llava")
