"""IDEFICS (the first one): gated cross-attention layers between those of a text-only LLM.

Letters: ``B`` sequences, ``L`` tokens of the whole sequence, ``I`` pictures, ``P`` vision tokens of
a picture (its patches after a class token), ``D`` width of the vision tower.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar, Self, cast

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.models.idefics.configuration_idefics import IdeficsConfig, IdeficsVisionConfig
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil
from transformers.models.idefics.modeling_idefics import IdeficsForVisionText2Text, IdeficsModel
from transformers.models.idefics.processing_idefics import (
    image_attention_mask_for_packed_input_ids as _count_pictures_before,
)
from transformers.models.idefics.processing_idefics import incremental_to_binary_attention_mask
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.lmm.base import LMMAdapter
from flmm.lmm.chat import RenderedChat
from flmm.lmm.image_processing import grid_view
from flmm.lmm.picture_features import EncodePictures
from flmm.lmm.prompt import PictureLayout, ProcessedPicture, Prompt, PromptBatch
from flmm.lmm.tiles import stretched_geometry
from flmm.lmm.tiny_models import random_model, tiny_text_config, tiny_tokenizer

_IMAGE_TOKEN, _FAKE_IMAGE_TOKEN = "<image>", "<fake_token_around_image>"
_END_OF_UTTERANCE = "<end_of_utterance>"
_IMAGE_ATTENTION_MASK = "image_attention_mask"
_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].capitalize() + ':' }}{% endif %}"
    "{% if message['content'] is string %}{{ ' ' + message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""The format of the instructed checkpoints' model cards, which have no template."""


class IdeficsAdapter(LMMAdapter):
    """IDEFICS, whose text sees the last picture before it, and no other.

    The published checkpoints have a perceiver resampler, none of whose latents has a place in the
    picture: they only chat.
    """

    model_types: ClassVar[tuple[str, ...]] = ("idefics",)
    hub_ids: ClassVar[tuple[str, ...]] = ("HuggingFaceM4/idefics-9b-instruct",)
    model_class: ClassVar[type[PreTrainedModel]] = IdeficsForVisionText2Text
    sequence_input_names: tuple[str, ...] = (_IMAGE_ATTENTION_MASK,)
    image_tokens_in_sequence: ClassVar[bool] = False

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: BaseImageProcessor,
        name: str,
        revision: str | None = None,
    ) -> None:
        super().__init__(model, tokenizer, image_processor, name, revision)
        if model.config.use_resampler:
            self.views = 0
            self.placeless_reason = (
                "its perceiver resampler makes each latent of the whole picture, so that attention"
                " to a latent tells no place"
            )
        if tokenizer.chat_template is None:
            tokenizer.chat_template = _CHAT_TEMPLATE
        end = tokenizer.convert_tokens_to_ids(_END_OF_UTTERANCE)
        if _END_OF_UTTERANCE in tokenizer.get_vocab() and model.generation_config is not None:
            # Of the instructed checkpoints; they name only the end of a text.
            model.generation_config.eos_token_id = sorted({*self.eos_token_ids, cast(int, end)})

    @property
    def image_token_id(self) -> int:
        return cast(int, self.tokenizer.convert_tokens_to_ids(_IMAGE_TOKEN))

    @cached_property
    def decoder_layers(self) -> nn.ModuleList:
        """The LLM's layers, with a gated cross-attention layer before every few of them."""
        base = self.text_model
        assert isinstance(base, IdeficsModel)
        interval = int(base.config.cross_layer_interval)

        def layers() -> Iterator[nn.Module]:
            for index, layer in enumerate(base.layers):
                if index % interval == 0:
                    yield base.gated_cross_attn_layers[index // interval]
                yield layer

        return nn.ModuleList(layers())

    @property
    def picture_encoder(self) -> EncodePictures:
        return self._encode_pixels

    def _encode_pixels(self, pixel_values: Tensor, **_: object) -> BaseModelOutputWithPooling:
        """Return the vision tower's outputs of (1, I, 3, H, W) pixels: (1, I, P, D)."""
        base = self.text_model
        assert isinstance(base, IdeficsModel)
        states = base.vision_model(pixel_values=pixel_values.flatten(0, 1)).last_hidden_state
        return BaseModelOutputWithPooling(pooler_output=states[None])

    @property
    def _picture_tokens(self) -> int:
        """P."""
        config = self.model.config.vision_config
        return (int(config.image_size) // int(config.patch_size)) ** 2 + 1

    def process_pictures(self, pictures: Sequence[Image.Image]) -> Mapping[str, Tensor]:
        # This image processor returns a tensor.
        pixels = cast(Tensor, self.run_image_processor(list(pictures)))
        return {"pixel_values": pixels[None]}

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        config = self.model.config.vision_config
        canvas = (int(config.image_size), int(config.image_size))
        side = canvas[0] // int(config.patch_size)
        geometry = stretched_geometry(picture.size, canvas, (side, side))
        view = grid_view(geometry, picture.index * self._picture_tokens + 1)
        text = f"{_FAKE_IMAGE_TOKEN}{_IMAGE_TOKEN}{_FAKE_IMAGE_TOKEN}"
        return PictureLayout(text, (view,) if self.placeless_reason is None else ())

    def _assemble_prompt(
        self,
        chat: RenderedChat,
        question: str,
        answer: str | None,
        inputs: Mapping[str, Tensor],
        layouts: Sequence[PictureLayout],
    ) -> Prompt:
        # One fake token stands between pictures that follow each other.
        between = chat.text.split(self.placeholder)[1:-1]
        layouts = [
            replace(layout, text=layout.text.removeprefix(_FAKE_IMAGE_TOKEN))
            if index and not between[index - 1]
            else layout
            for index, layout in enumerate(layouts)
        ]
        prompt = super()._assemble_prompt(chat, question, answer, inputs, layouts)
        token_ids = prompt.inputs["input_ids"]
        size = int(self.model.config.vision_config.image_size)
        # As transformers' processor does, black pixels that nothing sees where there is no picture.
        extra = {
            "pixel_values": torch.zeros(1, 1, 3, size, size),
            _IMAGE_ATTENTION_MASK: torch.zeros((*token_ids.shape, 1), dtype=torch.int64),
        }
        if layouts:
            extra = {_IMAGE_ATTENTION_MASK: self._compute_mask(token_ids, len(layouts))}
        return replace(prompt, inputs={**prompt.inputs, **extra})

    def _compute_mask(self, token_ids: Tensor, pictures: int) -> Tensor:
        """Return the (1, L, I) mask of transformers' processor: 1 for the last picture before."""
        # These functions of transformers have no type hints.
        count_pictures = cast(Callable[..., tuple[Tensor, Tensor]], _count_pictures_before)
        to_binary = cast(Callable[..., Tensor], incremental_to_binary_attention_mask)
        last, _ = count_pictures(token_ids, self.tokenizer, "pt")
        return to_binary(last, "pt", num_classes=pictures)

    def collate(self, prompts: Sequence[Prompt], keep_pixels: bool = False) -> PromptBatch:
        batch = super().collate(prompts, keep_pixels)
        if keep_pixels or batch.picture_inputs:
            return batch
        return replace(batch, picture_inputs=self.encode_pictures(prompts))

    def encode_pictures(self, prompts: Sequence[Prompt]) -> Mapping[str, object]:
        """Return (B, I, P, D) ``image_encoder_embeddings``; zeros, unseen, fill the batch."""
        pictures = [prompt.inputs for prompt in prompts if prompt.picture_views]
        features = iter(self.picture_features.get_each(pictures, self._to_device))
        states = torch.zeros(
            len(prompts),
            max(1, *(len(prompt.picture_views) for prompt in prompts)),
            self._picture_tokens,
            int(self.model.config.vision_config.embed_dim),
            dtype=self.dtype,
            device=self.device,
        )
        for row, prompt in zip(states, prompts, strict=True):
            if prompt.picture_views:
                row[: len(prompt.picture_views)] = cast(Tensor, next(features).pooler_output)[0]
        return {"image_encoder_embeddings": states}

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        del grouped_queries
        tokenizer = tiny_tokenizer(_IMAGE_TOKEN, _FAKE_IMAGE_TOKEN, _END_OF_UTTERANCE)
        sizes = tiny_text_config(tokenizer, grouped_queries=False)
        config = IdeficsConfig(
            vision_config=IdeficsVisionConfig(
                embed_dim=24,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=32,
                patch_size=4,
            ),
            vocab_size=sizes["vocab_size"],
            hidden_size=sizes["hidden_size"],
            intermediate_size=sizes["intermediate_size"],
            num_hidden_layers=4,
            num_attention_heads=sizes["num_attention_heads"],
            max_position_embeddings=sizes["max_position_embeddings"],
            initializer_range=sizes["initializer_range"],
            bos_token_id=sizes["bos_token_id"],
            eos_token_id=sizes["eos_token_id"],
            pad_token_id=sizes["pad_token_id"],
            cross_layer_interval=2,
            alpha_initializer="ones",
        )
        model = random_model(lambda: IdeficsForVisionText2Text(config))
        processor = IdeficsImageProcessorPil(size={"height": 32, "width": 32})
        return cls(model, tokenizer, processor, name="tiny-idefics")
