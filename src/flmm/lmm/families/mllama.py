"""Llama 3.2 Vision (Mllama): cross-attention layers between those of a text-only LLM.

Letters: ``B`` sequences, ``L`` tokens of the whole sequence, ``I`` pictures, ``T`` tiles of a
picture, ``P`` vision tokens of a tile (its patches after a class token), ``D`` LLM width.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Self, cast

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.models.mllama.configuration_mllama import (
    MllamaConfig,
    MllamaTextConfig,
    MllamaVisionConfig,
)
from transformers.models.mllama.image_processing_pil_mllama import (
    MllamaImageProcessorPil,
    get_all_supported_aspect_ratios,
    get_image_size_fit_to_canvas,
)
from transformers.models.mllama.modeling_mllama import (
    MllamaForConditionalGeneration,
    MllamaModel,
)
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from flmm.lmm.base import LMMAdapter
from flmm.lmm.chat import RenderedChat, Span
from flmm.lmm.message import Message
from flmm.lmm.picture_features import EncodePictures
from flmm.lmm.prompt import PictureLayout, PictureView, ProcessedPicture, Prompt, PromptBatch
from flmm.lmm.tiles import tiled_token_positions
from flmm.lmm.tiny_models import find_token_id, random_model, tiny_text_config, tiny_tokenizer
from flmm.types import ImageGeometry

_CROSS_ATTENTION_MASK = "cross_attention_mask"
_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""As in the checkpoints, whose own also has tools and refuses system messages with pictures."""
_ASPECT_RATIO_IDS, _ASPECT_RATIO_MASK = "aspect_ratio_ids", "aspect_ratio_mask"


class MllamaWithPictureStates(MllamaForConditionalGeneration):  # type: ignore[no-untyped-call]
    """The same model, whose ``generate`` also takes ``cross_attention_states`` in place of pixels.

    transformers' own would project them again at every step, and append them to the cache.
    """

    def prepare_inputs_for_generation(self, *args: object, **kwargs: object) -> dict[str, object]:
        inputs: dict[str, object] = super().prepare_inputs_for_generation(*args, **kwargs)
        if not kwargs.get("is_first_iteration") and kwargs.get("use_cache", True):
            inputs["cross_attention_states"] = None
        return inputs


class MllamaAdapter(LMMAdapter):
    """Llama 3.2 Vision.

    A picture is one image token, from which on the text sees it until another one comes that does
    not follow directly; its tiles are seen by the cross-attention layers alone.
    """

    model_types: ClassVar[tuple[str, ...]] = ("mllama",)
    hub_ids: ClassVar[tuple[str, ...]] = ("meta-llama/Llama-3.2-11B-Vision-Instruct",)
    model_class: ClassVar[type[PreTrainedModel]] = MllamaWithPictureStates
    image_input_names: tuple[str, ...] = ("pixel_values", _ASPECT_RATIO_IDS, _ASPECT_RATIO_MASK)
    sequence_input_names: tuple[str, ...] = (_CROSS_ATTENTION_MASK,)
    image_tokens_in_sequence: ClassVar[bool] = False

    @property
    def _max_tiles(self) -> int:
        """T."""
        return int(self.model.config.vision_config.max_num_tiles)

    def render_chat(self, messages: Sequence[Message], answer: str | None) -> RenderedChat:
        """See ``LMMAdapter.render_chat``; the pictures of a message follow each other directly.

        Of those on lines of their own, as where a template takes strings only, the text would see
        the last one alone.
        """
        chat = super().render_chat(messages, answer)
        image = re.escape(self.placeholder)
        line_ends = [found.start() for found in re.finditer(rf"\n(?={image})", chat.text)]
        removed = [end for end in line_ends if chat.text[:end].endswith(self.placeholder)]

        def shift(span: Span) -> Span:
            count = sum(end < span[0] for end in removed)
            return span[0] - count, span[1] - count

        return replace(
            chat,
            text=re.sub(rf"(?<={image})\n(?={image})", "", chat.text),
            question_span=shift(chat.question_span),
            answer_span=None if chat.answer_span is None else shift(chat.answer_span),
        )

    @property
    def picture_encoder(self) -> EncodePictures:
        return self._encode_tiles

    def _encode_tiles(
        self, pixel_values: Tensor, aspect_ratio_ids: Tensor, aspect_ratio_mask: Tensor, **_: object
    ) -> BaseModelOutputWithPooling:
        """Return the LLM's states of (1, I, T, 3, H, W) pixels: (1, I·T·P, D) ``pooler_output``."""
        base = self.model.base_model
        assert isinstance(base, MllamaModel)
        states = base.vision_model(
            pixel_values=pixel_values,
            aspect_ratio_ids=aspect_ratio_ids,
            aspect_ratio_mask=aspect_ratio_mask,
        ).last_hidden_state
        projected = base.multi_modal_projector(states)
        return BaseModelOutputWithPooling(pooler_output=projected.flatten(1, 3))

    def process_pictures(self, pictures: Sequence[Image.Image]) -> Mapping[str, Tensor]:
        return self.run_image_processor([list(pictures)])

    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        config = self.model.config.vision_config
        tile, max_tiles = int(config.image_size), self._max_tiles
        side = tile // int(config.patch_size)
        aspect_ratio = int(picture.inputs[_ASPECT_RATIO_IDS][0, picture.index]) - 1
        rows, columns = get_all_supported_aspect_ratios(max_tiles)[aspect_ratio]
        canvas = (rows * tile, columns * tile)
        height, width = get_image_size_fit_to_canvas(*picture.size, *canvas, tile)
        geometry = ImageGeometry(
            picture.size, (int(height), int(width)), (0, 0), canvas, (rows * side, columns * side)
        )
        cells = tiled_token_positions(rows, columns, side)
        # A class token before each tile's patches.
        start = picture.index * max_tiles * (side * side + 1)
        positions = start + cells + cells // (side * side) + 1
        return PictureLayout(self.image_token, (PictureView(positions, geometry),))

    def _assemble_prompt(
        self,
        chat: RenderedChat,
        question: str,
        answer: str | None,
        inputs: Mapping[str, Tensor],
        layouts: Sequence[PictureLayout],
    ) -> Prompt:
        prompt = super()._assemble_prompt(chat, question, answer, inputs, layouts)
        mask = torch.zeros((1, prompt.length, 0, self._max_tiles), dtype=torch.int64)
        if layouts:
            spans = get_cross_attention_token_mask(
                prompt.inputs["input_ids"][0].tolist(), self.image_token_id
            )
            tiles = inputs[_ASPECT_RATIO_MASK].sum(dim=-1).tolist()
            dense = convert_sparse_cross_attention_mask_to_dense(
                [spans], tiles, self._max_tiles, prompt.length
            )
            mask = torch.from_numpy(dense)
        return replace(prompt, inputs={**prompt.inputs, _CROSS_ATTENTION_MASK: mask})

    def collate(self, prompts: Sequence[Prompt], keep_pixels: bool = False) -> PromptBatch:
        """Collate prompts; ``keep_pixels``: of as many pictures each, or none at all.

        (B, L, I, T) ``cross_attention_mask``: nothing is seen of the pictures that fill a batch.
        """
        batch = super().collate(prompts, keep_pixels)
        inputs = dict(batch.inputs)
        mask = inputs.pop(_CROSS_ATTENTION_MASK)
        if mask.shape[2]:
            filling = _count_picture_places(prompts) - mask.shape[2]
            inputs[_CROSS_ATTENTION_MASK] = nn.functional.pad(mask, (0, 0, 0, filling))
        return replace(batch, inputs=inputs)

    def encode_pictures(self, prompts: Sequence[Prompt]) -> Mapping[str, object]:
        """Return (B, I·T·P, D) ``cross_attention_states``.

        Tokens before a picture see all that there is, so fewer pictures are repeated to fill a
        batch, which changes no weighted mean. Zeros change nothing where there is no picture: the
        projections have no bias.
        """
        places = _count_picture_places(prompts)
        with_pictures = [prompt for prompt in prompts if prompt.picture_views]
        features = self.picture_features.get_each(
            [prompt.inputs for prompt in with_pictures], self._to_device
        )
        states = [
            cast(Tensor, each.pooler_output).repeat(1, places // len(prompt.picture_views), 1)
            for each, prompt in zip(features, with_pictures, strict=True)
        ]
        rows = iter(states)
        nothing = torch.zeros_like(states[0])
        return {
            "cross_attention_states": torch.cat(
                [next(rows) if prompt.picture_views else nothing for prompt in prompts]
            )
        }

    @classmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        tokenizer = tiny_tokenizer(
            "<|image|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
        )
        tokenizer.chat_template = _CHAT_TEMPLATE
        sizes = tiny_text_config(tokenizer, grouped_queries)
        sizes["num_hidden_layers"] = 5
        config = MllamaConfig(
            vision_config=MllamaVisionConfig(
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=3,
                num_global_layers=1,
                attention_heads=2,
                # The last layer's states, and those of the layers below.
                vision_output_dim=48,
                intermediate_layers_indices=[0, 2],
                image_size=16,
                patch_size=4,
                initializer_range=0.3,
            ),
            text_config=MllamaTextConfig(
                **sizes,
                cross_attention_layers=[1, 3],
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            ),
            image_token_index=find_token_id(tokenizer, "<|image|>"),
        )
        model = random_model(lambda: MllamaWithPictureStates(config))
        _open_gates(model)
        processor = MllamaImageProcessorPil(size={"height": 16, "width": 16})
        return cls(model, tokenizer, processor, name="tiny-mllama")


def _count_picture_places(prompts: Sequence[Prompt]) -> int:
    """Return how many pictures each prompt of a batch is filled up to: a multiple of its own."""
    counts = {len(prompt.picture_views) for prompt in prompts} - {0}
    return math.lcm(*counts) if counts else 0


@torch.no_grad()
def _open_gates(model: MllamaForConditionalGeneration) -> None:
    """Set a new model's gates, which are closed, and norms that leave attention near-uniform."""
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            parameter.fill_(0.7)
        elif name.endswith("q_norm.weight"):
            parameter.fill_(3)
