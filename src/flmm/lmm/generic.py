"""The adapter for LMMs without a family file, if transformers knows enough about them."""

import inspect
import math
from collections.abc import Callable
from typing import ClassVar, Self, cast

import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.auto_mappings import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    VIDEO_PROCESSOR_MAPPING_NAMES,
)
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import AutoProcessor
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.vipllava.configuration_vipllava import VipLlavaConfig
from transformers.models.vipllava.modeling_vipllava import VipLlavaForConditionalGeneration
from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils.import_utils import is_torchvision_available

from flmm.errors import InputError, first_line
from flmm.lmm.base import LMMAdapter
from flmm.lmm.image_processing import PreprocessingSteps, grid_view
from flmm.lmm.loading import load_components
from flmm.lmm.model_type import read_model_type
from flmm.lmm.placement import Placement
from flmm.lmm.prompt import Message, PictureLayout, ProcessedPicture
from flmm.lmm.tiny_models import (
    find_token_id,
    random_model,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)

# What processors raise if a file or a setting is missing.
_PROCESSOR_ERRORS = (OSError, ValueError, ImportError, AttributeError, TypeError, KeyError)


class GenericAdapter(LMMAdapter):
    """An LMM with one canvas for each picture, whose image tokens are a grid in one placeholder.

    Nothing is guessed: the number of image tokens comes from the vision tower's output, and a
    prompt is compared with that of the model's own processor.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    hub_ids: ClassVar[tuple[str, ...]] = ()
    model_class: ClassVar[type[PreTrainedModel]] = PreTrainedModel

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: PilBackend,
        name: str,
        revision: str | None = None,
    ) -> None:
        for missing, reason in (
            (not isinstance(getattr(model.config, "image_token_id", None), int),
             "its config.json marks no image tokens (image_token_id)"),
            (not hasattr(model.base_model, "get_image_features"),
             "its class has no get_image_features"),
            ("mm_encoder_outputs" not in inspect.signature(model.forward).parameters,
             "its class takes no features in place of pixels (mm_encoder_outputs)"),
            (model.get_decoder() is None, "its get_decoder returns None"),  # type: ignore[no-untyped-call]
        ):  # fmt: skip
            if missing:
                raise _unsupported_error(name, model.config.model_type, reason)
        super().__init__(model, tokenizer, image_processor, name, revision)

    @classmethod
    def load(
        cls, name: str, placement: Placement | None = None, revision: str | None = None
    ) -> Self:
        model_class = _find_model_class(name, revision)
        adapter = cls(*load_components(model_class, name, placement, revision), name, revision)
        try:
            load = cast(Callable[..., object], AutoProcessor.from_pretrained)
            processor = load(name, revision=revision, trust_remote_code=False)
        except _PROCESSOR_ERRORS as error:
            raise adapter._processor_error(error) from error
        if not isinstance(processor, ProcessorMixin):
            raise adapter._processor_error(None)
        adapter.check_against_processor(processor)
        return adapter

    def _processor_error(self, error: Exception | None) -> InputError:
        cause = first_line(error) if error else "there is none"
        reason = f"its own processor cannot be used ({cause})"
        return _unsupported_error(self.name, self.model_type, reason)

    def check_against_processor(self, processor: ProcessorMixin) -> None:
        """Check that a prompt equals the one that the model's own processor makes.

        Raises:
            InputError: they differ, or that processor fails.
        """
        picture = Image.new("RGB", (80, 64), (200, 30, 60))
        question = "What is in the picture?"
        chat = self.render_chat([Message("user", question, (picture,))], None)
        try:
            expected = processor(
                images=[picture],
                text=[chat.text],
                add_special_tokens=not chat.has_special_tokens,
                return_tensors="pt",
            )
        except _PROCESSOR_ERRORS as error:
            raise self._processor_error(error) from error
        token_ids = self.build_prompt(picture, question).inputs["input_ids"]
        others = set(expected) - {"input_ids", "attention_mask", *self.image_input_names}
        if others:
            reason = f"it also takes {', '.join(sorted(others))}"
            raise _unsupported_error(self.name, self.model_type, reason)
        if not torch.equal(token_ids, expected["input_ids"]):
            reason = "its processor writes pictures into the text in a way of its own"
            raise _unsupported_error(self.name, self.model_type, reason)

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        model_type = self.model_type
        pixels = picture.inputs.get("pixel_values")
        if pixels is None:
            reason = f"its image processor gives {', '.join(picture.inputs)}, not pixel_values"
            raise _unsupported_error(self.name, model_type, reason)
        if pixels.ndim != 4:
            reason = f"it cuts pictures up, into a tensor of {tuple(pixels.shape)}"
            raise _unsupported_error(self.name, model_type, reason)
        inputs = {name: picture.inputs[name] for name in self.image_input_names}
        features = self.picture_features.get(inputs, self._to_device).pooler_output
        if features is None or len(features) != len(pixels):
            reason = "its features are not one tensor for each picture"
            raise _unsupported_error(self.name, model_type, reason)
        count = features[picture.index].shape[-2]
        height, width = pixels.shape[-2:]
        rows = round(math.sqrt(count * height / width))
        if rows < 1 or count % rows or rows * width != count // rows * height:
            reason = f"{count} image tokens are no grid of a canvas of {height}×{width} pixels"
            raise _unsupported_error(self.name, model_type, reason)
        geometry = PreprocessingSteps.from_image_processor(self.image_processor).compute_geometry(
            picture.size, height // rows
        )
        if geometry.canvas != (height, width):
            reason = f"its image processor makes {height}×{width} pixels by steps unknown to flmm"
            raise _unsupported_error(self.name, model_type, reason)
        return PictureLayout(self.image_token * count, (grid_view(geometry),))

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer("<image>")
        config = VipLlavaConfig(
            vision_config=CLIPVisionConfig(**tiny_vision_config(32, 4)),
            text_config=LlamaConfig(**tiny_text_config(tokenizer, grouped_queries)),
            image_token_index=find_token_id(tokenizer, "<image>"),
            vision_feature_layer=[-2, -1],
        )
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
        model = random_model(lambda: VipLlavaForConditionalGeneration(config))
        return cls(model, tokenizer, processor, name="tiny-vipllava")


def _find_model_class(name: str, revision: str | None) -> type[PreTrainedModel]:
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        # Code in the repository does not help: flmm never runs it.
        reason = "transformers itself has no model of that type"
        raise _unsupported_error(name, read_model_type(name, revision), reason) from error
    model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    if not isinstance(model_class, type) or not issubclass(model_class, PreTrainedModel):
        reason = "transformers has no model of that type that reads pictures and writes text"
        raise _unsupported_error(name, config.model_type, reason)
    _check_processors(name, config.model_type)
    return model_class


def _check_processors(name: str, model_type: str) -> None:
    """Check, before any weight is read, that the type's processors can be used here.

    Raises:
        InputError: transformers has one of them for torchvision only.
    """
    missing = "" if is_torchvision_available() else ", which is not installed"
    reason = "transformers has its {} processor only for torchvision" + missing
    if "pil" not in IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, ("pil",)):
        image_reason = reason.format("image") + ", and none for PIL, as flmm uses them"
        raise _unsupported_error(name, model_type, image_reason)
    # flmm reads no videos, but the processor that its prompts are compared with needs this too.
    if missing and model_type in VIDEO_PROCESSOR_MAPPING_NAMES:
        raise _unsupported_error(name, model_type, reason.format("video"))


def _unsupported_error(name: str, model_type: str, reason: str) -> InputError:
    """Return the error that says why, and which file to write."""
    return InputError(
        f"LMM {name!r} has model_type {model_type!r}, which no family of flmm reads (see flmm"
        f" models), and the generic adapter cannot: {reason}; write"
        f" src/flmm/lmm/families/{model_type}.py for it, as llava.py is for LLaVA"
    )
