"""The adapter for LMMs without a family file, if transformers knows enough about them."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import ClassVar, Self, cast

import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.vipllava.configuration_vipllava import VipLlavaConfig
from transformers.models.vipllava.modeling_vipllava import VipLlavaForConditionalGeneration
from transformers.processing_utils import ProcessorMixin

from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.lmm.chat import RenderedChat
from flmm.lmm.generic.layouts import (
    FeatureCountError,
    FoundLayout,
    LayoutError,
    LayoutFinder,
    ProcessedText,
)
from flmm.lmm.generic.picture_texts import PROCESSOR_ERRORS, PictureWriter
from flmm.lmm.generic.processor import build_processor, load_processor
from flmm.lmm.generic.refusals import processor_error, unsupported_error
from flmm.lmm.generic.token_types import find_marked_tokens, is_text_input
from flmm.lmm.loading import load_components
from flmm.lmm.message import Message
from flmm.lmm.model_type import read_model_type
from flmm.lmm.picture_features import stack_features
from flmm.lmm.placement import Placement
from flmm.lmm.places import describe_placeless
from flmm.lmm.prompt import PictureLayout, ProcessedPicture
from flmm.lmm.tiny_models import (
    find_token_id,
    random_model,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)
from flmm.types import Size

_log = logging.getLogger("flmm.lmm")

_PROBED_SIZES = ((64, 80), (256, 768))
"""Sizes of pictures: a small one, and a wide one, which may be cut into tiles."""


class GenericAdapter(LMMAdapter):
    """An LMM whose image tokens are found by its own processor, picture sizes and vision tower.

    Nothing is guessed: without a layout that the vision tower agrees with, the LMM only chats
    (``placeless_reason``), and a prompt is compared with that of the model's own processor.

    Args:
        processor: the model's own, of the same image processor and tokenizer.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    hub_ids: ClassVar[tuple[str, ...]] = ()
    model_class: ClassVar[type[PreTrainedModel]] = PreTrainedModel

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
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
                raise unsupported_error(name, model.config.model_type, reason)
        super().__init__(model, processor.tokenizer, processor.image_processor, name, revision)
        self.processor = processor
        try:
            self._writer = PictureWriter(processor, self.tokenizer, self.image_token)
        except PROCESSOR_ERRORS as error:
            raise processor_error(name, self.model_type, error) from error
        self.computes_position_ids = hasattr(model.base_model, "get_rope_index")
        self._vision_inputs = self.picture_features.input_names
        text_modules = set(self.text_model.modules())
        self._layouts = LayoutFinder(
            self._process_picture,
            self._encode_picture,
            tuple(module for module in model.modules() if module not in text_modules),
        )
        self._prefix = ""
        self._check_against_processor()

    @classmethod
    def load(
        cls, name: str, placement: Placement | None = None, revision: str | None = None
    ) -> Self:
        model_class = _find_model_class(name, revision)
        model, tokenizer, images = load_components(model_class, name, placement, revision)
        try:
            processor = load_processor(name, revision, model.config, images, tokenizer)
        except PROCESSOR_ERRORS as error:
            raise processor_error(name, model.config.model_type, error) from error
        return cls(model, processor, name, revision)

    @property
    def placeholder(self) -> str:
        return self._writer.placeholder

    def render_chat(self, messages: Sequence[Message], answer: str | None) -> RenderedChat:
        return super().render_chat(messages, answer).prepend(self._prefix)

    def process_pictures(self, pictures: Sequence[Image.Image]) -> Mapping[str, Tensor]:
        shown = list(pictures)
        if self.placeless_reason is None:
            shown = [self._find_layout((p.height, p.width)).enlarge(p) for p in pictures]
        processed = self._writer.run(shown, self.placeholder * len(pictures))
        return {name: processed[name] for name in self.image_input_names}

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        has_places = self.placeless_reason is None
        find = self._find_layout if has_places else self._layouts.find_text
        found = find(picture.size)
        text = self._writer.number(found.text, picture.size, picture.index)
        # A picture that is not cut up has one view, which is then both coarse and fine.
        repeats = self.views // len(found.views) if found.views else 1
        return PictureLayout(text, found.views * repeats)

    @property
    def packed_input_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._writer.second_picture.packed_input_names

    @property
    def views(self) -> int:  # type: ignore[override]
        return self._views[0]

    @property
    def placeless_reason(self) -> str | None:  # type: ignore[override]
        return self._views[1]

    @cached_property
    def _views(self) -> tuple[int, str | None]:
        """``views`` and ``placeless_reason``; found out with the first picture, not while loading.

        Raises:
            InputError: image tokens and features differ in number.
        """
        try:
            return max(len(self._layouts.find(size).views) for size in _PROBED_SIZES), None
        except LayoutError as error:
            reason = str(error)
        except FeatureCountError as error:
            raise unsupported_error(self.name, self.model_type, str(error)) from error
        try:
            for size in _PROBED_SIZES:
                self._layouts.check_feature_count(size)
        except FeatureCountError as error:
            raise unsupported_error(self.name, self.model_type, str(error)) from error
        _log.warning(describe_placeless(self.name, reason))
        return 0, reason

    def compute_token_type_ids(self, token_ids: Tensor, is_answer: Tensor) -> Mapping[str, Tensor]:
        return {
            name: (torch.isin(token_ids, marked) & ~is_answer).long()
            for name, marked in self._marked_tokens.items()
        }

    def _find_layout(self, picture: Size) -> FoundLayout:
        try:
            found = self._layouts.find(picture)
            if len(found.views) not in (1, self.views):
                raise LayoutError(f"{len(found.views)} grids of image tokens show it")
        except (LayoutError, FeatureCountError) as error:
            height, width = picture
            raise InputError(
                f"a picture of {width}×{height} pixels cannot be shown to LMM {self.name!r}:"
                f" {error}; crop it to another shape"
            ) from error
        return found

    def _process_picture(self, picture: Image.Image) -> ProcessedText:
        processed = self._writer.run_alone([picture])
        return ProcessedText(
            {name: processed[name] for name in self.image_input_names},
            self._writer.read_texts(processed)[0],
            int((processed["input_ids"] == self.image_token_id).sum()),
        )

    def _encode_picture(self, inputs: Mapping[str, Tensor]) -> Tensor:
        encode = cast(
            Callable[..., BaseModelOutputWithPooling], self.model.base_model.get_image_features
        )
        vision = {
            name: self._to_device(inputs[name]) for name in inputs if name in self._vision_inputs
        }
        return stack_features(encode(**vision, return_dict=True))

    def _check_against_processor(self) -> None:
        """Read from a prompt of the model's own processor which inputs there are.

        Raises:
            InputError: the adapter's prompt is another, or that processor fails.
        """
        picture = Image.new("RGB", (80, 64), (200, 30, 60))
        question = "What is in the picture?"
        chat = self.render_chat([Message("user", question, (picture,))], None)
        try:
            expected = self._writer.run(
                [picture], chat.text, add_special_tokens=not chat.has_special_tokens
            )
        except PROCESSOR_ERRORS as error:
            raise processor_error(self.name, self.model_type, error) from error
        processor_name = type(self.processor).__name__
        if not bool((expected["input_ids"] == self.image_token_id).any()):
            raise InputError(
                f"LMM {self.name!r}: its {processor_name} never writes {self.image_token!r}, which"
                f" its config.json names as the image token (image_token_id {self.image_token_id});"
                " save the config, tokenizer and processor of one model there"
            )
        accepted = self._vision_inputs | inspect.signature(self.model.forward).parameters.keys()
        names = [name for name in expected if not is_text_input(expected, name)]
        try:
            self._marked_tokens = find_marked_tokens(
                expected, accepted, self.tokenizer, self.image_token_id
            )
        except ValueError as error:
            raise unsupported_error(self.name, self.model_type, str(error)) from error
        if others := set(names) - accepted:
            reason = (
                f"its {processor_name} gives {', '.join(sorted(others))}, which the model does not"
                " take"
            )
            raise unsupported_error(self.name, self.model_type, reason)
        self.image_input_names = tuple(names)
        self.position_input_names = tuple(n for n in names if not expected[n].is_floating_point())
        self.token_type_input_names = tuple(self._marked_tokens)
        # Without places, which the vision tower would have to tell.
        layouts = [PictureLayout(self._layouts.find_text((picture.height, picture.width)).text, ())]
        prompt = self._assemble_prompt(chat, question, None, expected, layouts).inputs
        # Some processors put a token before every text.
        self._prefix = self._writer.find_prefix(expected["input_ids"], prompt["input_ids"])
        if self._prefix:
            chat = chat.prepend(self._prefix)
            prompt = self._assemble_prompt(chat, question, None, expected, layouts).inputs
        for name in ("input_ids", *self.token_type_input_names):
            if name in expected and not torch.equal(prompt[name], expected[name]):
                reason = "its processor writes pictures into the text in a way of its own"
                raise unsupported_error(self.name, self.model_type, reason)

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer("<image>")
        config = VipLlavaConfig(
            vision_config=CLIPVisionConfig(**tiny_vision_config(32, 4)),
            text_config=LlamaConfig(**tiny_text_config(tokenizer, grouped_queries)),
            image_token_index=find_token_id(tokenizer, "<image>"),
            vision_feature_layer=[-2, -1],
        )
        images = CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
        settings = {
            "patch_size": 4,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        }
        model = random_model(lambda: VipLlavaForConditionalGeneration(config))
        return cls(
            model, build_processor(LlavaProcessor, images, tokenizer, settings), "tiny-vipllava"
        )


def _find_model_class(name: str, revision: str | None) -> type[PreTrainedModel]:
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        # Code in the repository does not help: flmm never runs it.
        reason = "transformers itself has no model of that type"
        raise unsupported_error(name, read_model_type(name, revision), reason) from error
    model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    if not isinstance(model_class, type) or not issubclass(model_class, PreTrainedModel):
        reason = "transformers has no model of that type that reads pictures and writes text"
        raise unsupported_error(name, config.model_type, reason)
    return model_class
