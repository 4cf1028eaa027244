"""What every LMM family offers, so that nothing to the right of this folder knows families.

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid, ``T`` tokens of the answer, ``D`` LLM
width, ``L`` tokens of the whole sequence, ``B`` sequences in a batch.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Self, cast

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.image_processing_backends import PilBackend
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.errors import InputError
from flmm.lmm.chat import RenderedChat, encode_chat, render_chat
from flmm.lmm.frozen_model import FrozenModel
from flmm.lmm.generation import CallbackStreamer, Generation, sampling_kwargs
from flmm.lmm.loading import load_components
from flmm.lmm.picture_features import PictureFeatureCache
from flmm.lmm.placement import Placement
from flmm.lmm.prompt import (
    Message,
    PictureLayout,
    ProcessedPicture,
    Prompt,
    PromptBatch,
    pad_and_concatenate,
)


class LMMAdapter(FrozenModel, ABC):
    """A frozen LMM of one family.

    A family is one file here with one subclass that sets ``model_types``, ``hub_ids`` and
    ``model_class`` and writes the abstract members; the contract tests find it by themselves.
    """

    model_types: ClassVar[tuple[str, ...]]
    """The ``model_type`` values in config.json that this family reads; a literal."""
    hub_ids: ClassVar[tuple[str, ...]]
    """Some models of this family on the hub; a literal."""
    model_class: ClassVar[type[PreTrainedModel]]
    """transformers' own class of the whole model."""
    views: ClassVar[int] = 1
    """Grids of image tokens a picture: 2 where a coarse view stands beside tiles (section 1.7)."""
    image_input_names: ClassVar[tuple[str, ...]] = ("pixel_values",)
    """What the model takes from the image processor."""
    position_input_names: ClassVar[tuple[str, ...]] = ()
    """Those of ``image_inputs`` that the LLM needs too, for its tokens' positions."""
    token_type_input_name: ClassVar[str | None] = None
    """The input that tells image tokens (1) from text (0), where the model wants one."""
    supports_conversation: ClassVar[bool] = True
    """Whether a question may follow others."""
    computes_position_ids: ClassVar[bool] = False
    """Whether the model itself counts positions past the padding of a batch."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: PilBackend,
        name: str,
        revision: str | None = None,
    ) -> None:
        super().__init__(model, tokenizer)
        self.image_processor = image_processor
        self.name = name
        self.revision = revision
        self.lock = threading.RLock()
        """Held while recording: the recorder changes the model's configuration for a moment."""
        self.picture_features = PictureFeatureCache(model)

    @classmethod
    def load(
        cls, name: str, placement: Placement | None = None, revision: str | None = None
    ) -> Self:
        """The model in a folder or hub repository.

        Raises:
            InputError: a file of it is missing or cannot be used, or a package that the placement
                needs is not there.
        """
        return cls(*load_components(cls.model_class, name, placement, revision), name, revision)

    @classmethod
    @abstractmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        """A small random model of the family, made without files, the same at every call.

        ``grouped_queries``: with fewer key heads than query heads.
        """

    @abstractmethod
    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        """How a picture stands in the sequence.

        Raises:
            InputError: the image processor leaves nothing of the picture, or does not suit the
                model.
        """

    def process_pictures(self, pictures: Sequence[Image.Image]) -> Mapping[str, Tensor]:
        """The image processor's tensors for the pictures of one conversation."""
        return self.run_image_processor(list(pictures))

    def run_image_processor(self, pictures: object, **options: bool) -> Mapping[str, Tensor]:
        """Calls the image processor; transformers does not type its families' own options."""
        run = cast(Callable[..., Mapping[str, Tensor]], self.image_processor)
        return run(pictures, return_tensors="pt", **options)

    @property
    def image_token_id(self) -> int:
        """The token in whose places the LLM is given the picture."""
        return int(self.model.config.image_token_id)

    @property
    def image_token(self) -> str:
        """Its text."""
        token = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
        if not isinstance(token, str):
            raise InputError(
                f"LMM {self.name!r}: its tokenizer has no token {self.image_token_id}, which its"
                " config.json names as the image token; save the right tokenizer beside it"
            )
        return token

    @property
    def placeholder(self) -> str:
        """What the chat template writes for a picture."""
        return self.image_token

    def render_chat(self, messages: Sequence[Message], answer: str | None) -> RenderedChat:
        """The conversation's text, its last message the question, with placeholders for pictures.

        Raises:
            InputError: a text contains the placeholder, or the chat template leaves something out.
        """
        return render_chat(self.tokenizer, self.placeholder, messages, answer, self.name)

    def compute_token_type_ids(self, is_image: Tensor, is_answer: Tensor) -> Tensor:
        """(L,) int64 for the input ``token_types``, from two (L,) bool."""
        return (is_image & ~is_answer).long()

    def build_prompt(
        self,
        pictures: Image.Image | Sequence[Image.Image],
        question: str,
        answer: str | None = None,
        history: Sequence[Message] = (),
    ) -> Prompt:
        """A question about pictures and, where given, an answer that continues it.

        White space around the question and the answer is taken off. ``history`` is what was said
        before; its pictures come before the question's.

        Raises:
            InputError: a text contains the family's image placeholder.
        """
        return self.build_prompts(pictures, [(question, answer)], history)[0]

    def build_prompts(
        self,
        pictures: Image.Image | Sequence[Image.Image],
        texts: Sequence[tuple[str, str | None]],
        history: Sequence[Message] = (),
    ) -> list[Prompt]:
        """A prompt for each question and its answer or None, all about the same pictures.

        Each is what ``prepare`` makes of them, but the image processor runs only once.

        Raises:
            InputError: a text contains the family's image placeholder.
        """
        own = (pictures,) if isinstance(pictures, Image.Image) else tuple(pictures)
        texts = [(asked.strip(), None if said is None else said.strip()) for asked, said in texts]
        chats = [
            self.render_chat([*history, Message("user", asked, own)], said) for asked, said in texts
        ]
        earlier = [picture for message in history for picture in message.pictures]
        shown = [picture.convert("RGB") for picture in (*earlier, *own)]
        inputs = self.process_pictures(shown) if shown else {}
        layouts = [
            self.layout(ProcessedPicture((picture.height, picture.width), inputs, index))
            for index, picture in enumerate(shown)
        ]
        return [
            self._assemble_prompt(chat, *text, inputs, layouts)
            for chat, text in zip(chats, texts, strict=True)
        ]

    def _assemble_prompt(
        self,
        chat: RenderedChat,
        question: str,
        answer: str | None,
        inputs: Mapping[str, Tensor],
        layouts: Sequence[PictureLayout],
    ) -> Prompt:
        """A chat's tokens around the processed pictures."""
        texts = [layout.text for layout in layouts]
        encoded = encode_chat(self.tokenizer, chat, self.placeholder, texts)
        token_ids = torch.tensor([encoded.token_ids])
        is_image = token_ids[0] == self.image_token_id
        placed = []
        for layout, (start, end) in zip(layouts, encoded.picture_spans, strict=True):
            columns = torch.arange(start, end)[is_image[start:end]]
            placed.append(
                tuple(replace(v, token_positions=columns[v.token_positions]) for v in layout.views)
            )
        text_inputs = {"input_ids": token_ids, "attention_mask": torch.ones_like(token_ids)}
        if self.token_type_input_name is not None:
            is_answer = torch.arange(token_ids.shape[1]) >= encoded.answer_start
            text_inputs[self.token_type_input_name] = self.compute_token_type_ids(
                is_image, is_answer
            )[None]
        return Prompt(
            inputs=text_inputs | {name: inputs[name] for name in self.image_input_names if layouts},
            picture_views=tuple(placed),
            question=question,
            question_start=encoded.question_start,
            question_offsets=encoded.question_offsets,
            answer_start=encoded.answer_start,
            answer=answer,
            answer_offsets=encoded.answer_offsets,
        )

    @torch.no_grad()
    def collate(self, prompts: Sequence[Prompt], keep_pixels: bool = False) -> PromptBatch:
        """Prompts as one batch, padded on the left, on the model's device and in its type.

        The vision tower runs here, for pictures that it has not seen lately. ``pixels``: the model
        is given the pixels instead, and runs its vision tower itself.
        """
        longest = max(prompt.length for prompt in prompts)
        padding = tuple(longest - prompt.length for prompt in prompts)
        encoded = self.picture_features.input_names - set(self.position_input_names)
        inputs = {}
        for key in dict.fromkeys(key for prompt in prompts for key in prompt.inputs):
            if key in encoded and not keep_pixels:
                continue
            parts = [prompt.inputs.get(key) for prompt in prompts]
            if key in ("input_ids", "attention_mask", self.token_type_input_name):
                fill = self.pad_token_id if key == "input_ids" else 0
                parts = [
                    nn.functional.pad(part, (columns, 0), value=fill)
                    for part, columns in zip(parts, padding, strict=True)
                    if part is not None
                ]
            inputs[key] = self._to_device(
                pad_and_concatenate([part for part in parts if part is not None])
            )
        if any(padding) and not self.computes_position_ids:
            # Counted from each sequence's first real token.
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        shown = [prompt.inputs for prompt in prompts if prompt.picture_views]
        features = None
        if shown and not keep_pixels:
            features = self.picture_features.get_batch(shown, self._to_device)
        return PromptBatch(tuple(prompts), inputs, padding, features)

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)

    @torch.no_grad()
    def generate(
        self,
        prompt: Prompt,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        on_token: Callable[[int], None] | None = None,
    ) -> Generation:
        """The model's answer, exactly as transformers' own ``generate`` gives it.

        ``temperature`` 0 takes the likeliest token at every step; above it, tokens are drawn with
        torch's global generator. ``on_token`` is called with every new token, the end included.

        Raises:
            InputError: ``max_new_tokens`` is below 1 or ``temperature`` below 0.
        """
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {max_new_tokens}; give at least 1")
        inputs = self.collate([prompt]).model_inputs
        # transformers types generate for a protocol that its own models do not meet.
        sequences = cast(Callable[..., Tensor], self.model.generate)(
            **inputs,
            **sampling_kwargs(temperature),
            max_new_tokens=max_new_tokens,
            num_beams=1,
            pad_token_id=self.pad_token_id,
            streamer=None if on_token is None else CallbackStreamer(on_token),
        )
        token_ids = sequences[0, prompt.length :].cpu()
        if len(token_ids) and int(token_ids[-1]) in self.eos_token_ids:
            token_ids = token_ids[:-1]
        return Generation(token_ids, self.decode(token_ids))
