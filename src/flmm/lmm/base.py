"""The base class of all LMM adapters: the interface that each family implements.

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid, ``T`` tokens of the answer, ``D`` LLM
width, ``L`` tokens of the whole sequence, ``B`` sequences in a batch.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Self, cast

import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.errors import InputError
from flmm.lmm.chat import RenderedChat, encode_chat, render_chat
from flmm.lmm.frozen_model import FrozenModel
from flmm.lmm.generation import Generation, generate_answer
from flmm.lmm.loading import load_components
from flmm.lmm.message import Message
from flmm.lmm.picture_features import EncodePictures, PictureFeatureCache
from flmm.lmm.placement import Placement
from flmm.lmm.prompt import (
    PictureLayout,
    ProcessedPicture,
    Prompt,
    PromptBatch,
    pad_and_concatenate,
    pad_sequence_start,
)
from flmm.lmm.run_image_processor import Pictures, run_image_processor


class LMMAdapter(FrozenModel, ABC):
    """A frozen LMM of one family.

    A family is one file in ``families/`` with one subclass that sets ``model_types``, ``hub_ids``
    and ``model_class`` and implements the abstract methods; the contract tests find it by listing.
    """

    model_types: ClassVar[tuple[str, ...]]
    """The ``model_type`` values in config.json that the family reads; a literal."""
    hub_ids: ClassVar[tuple[str, ...]]
    """Some of the family's models on the hub; a literal."""
    model_class: ClassVar[type[PreTrainedModel]]
    """transformers' class of the whole model."""
    views: int = 1
    """Grids of image tokens for each picture: 2 with a coarse view beside tiles (section 1.7)."""
    image_input_names: tuple[str, ...] = ("pixel_values",)
    """The image processor's outputs that the model takes."""
    position_input_names: tuple[str, ...] = ()
    """Those of ``image_input_names`` that the LLM needs too, for its position ids."""
    packed_input_names: tuple[str, ...] = ()
    """Those of ``image_input_names`` in which pictures follow one another on the last axis."""
    token_type_input_names: tuple[str, ...] = ()
    """The inputs that mark image tokens (1) and text (0), for models that take some."""
    sequence_input_names: tuple[str, ...] = ()
    """Further inputs with a row for each token, (1, L, …), zeros for padding."""
    supports_conversation: ClassVar[bool] = True
    """Whether a prompt may contain earlier messages."""
    computes_position_ids: bool = False
    """Whether the model itself leaves padding out of its position ids."""
    image_tokens_in_sequence: ClassVar[bool] = True
    """False if cross-attention layers, which are recorded alone, attend to the pictures."""
    placeless_reason: str | None = None
    """Why image tokens have no known place: there are no views then, and words are not grounded."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: BaseImageProcessor,
        name: str,
        revision: str | None = None,
    ) -> None:
        super().__init__(model, tokenizer)
        self.image_processor = image_processor
        self.name = name
        self.revision = revision
        self.recording_lock = threading.RLock()
        """Held while recording, since the recorder changes the model's configuration."""
        self.picture_features = PictureFeatureCache(model, self.picture_encoder)

    @classmethod
    def load(
        cls, name: str, placement: Placement | None = None, revision: str | None = None
    ) -> Self:
        """Load the model in a folder or hub repository.

        Raises:
            InputError: a file is missing or unusable, or a package that the placement needs is.
        """
        return cls(*load_components(cls.model_class, name, placement, revision), name, revision)

    @classmethod
    @abstractmethod
    def build_tiny(cls, grouped_queries: bool = False) -> Self:
        """Build a small model of the family in memory, with the same random weights every time.

        ``grouped_queries``: with fewer key heads than query heads.
        """

    @abstractmethod
    def layout(self, picture: ProcessedPicture) -> PictureLayout:
        """Return the text and the views of one picture in the prompt.

        Raises:
            InputError: the image processor leaves nothing of the picture or does not fit the model.
        """

    def process_pictures(self, pictures: Sequence[Image.Image]) -> Mapping[str, Tensor]:
        """Return the image processor's tensors for the pictures of one conversation."""
        return self.run_image_processor(list(pictures))

    def run_image_processor(self, pictures: Pictures, **options: bool) -> Mapping[str, Tensor]:
        """Call ``run_image_processor`` with the LMM's."""
        return run_image_processor(self.image_processor, pictures, **options)

    @property
    def picture_encoder(self) -> EncodePictures:
        """The vision tower with its projector, by the names of a prompt's inputs."""
        return cast(EncodePictures, self.model.base_model.get_image_features)

    @property
    def image_token_id(self) -> int:
        """The token whose embeddings are replaced by the picture's features."""
        return int(self.model.config.image_token_id)

    @property
    def image_token(self) -> str:
        """The text of ``image_token_id``."""
        token = self.tokenizer.convert_ids_to_tokens(self.image_token_id)
        if not isinstance(token, str):
            raise InputError(
                f"LMM {self.name!r}: its tokenizer has no token {self.image_token_id}, which its"
                " config.json names as the image token; save the right tokenizer beside it"
            )
        return token

    @property
    def placeholder(self) -> str:
        """The text that the chat template writes for a picture."""
        return self.image_token

    def render_chat(self, messages: Sequence[Message], answer: str | None) -> RenderedChat:
        """Render the messages, the last of them the question, with a placeholder for each picture.

        Raises:
            InputError: a text contains the placeholder or another special token, or the chat
                template leaves something out.
        """
        return render_chat(self.tokenizer, self.placeholder, messages, answer, self.name)

    def compute_token_type_ids(self, token_ids: Tensor, is_answer: Tensor) -> Mapping[str, Tensor]:
        """Return (L,) int64 for each of ``token_type_input_names``; ``is_answer``: (L,) bool."""
        marks = ((token_ids == self.image_token_id) & ~is_answer).long()
        return dict.fromkeys(self.token_type_input_names, marks)

    def build_prompt(
        self,
        pictures: Image.Image | Sequence[Image.Image],
        question: str,
        answer: str | None = None,
        history: Sequence[Message] = (),
    ) -> Prompt:
        """Build the prompt of a question about pictures and, if given, the answer after it.

        White space around the question and the answer is stripped. ``history``: the messages before
        the question; their pictures come before the question's.

        Raises:
            InputError: a text contains the family's image placeholder or another special token.
        """
        return self.build_prompts(pictures, [(question, answer)], history)[0]

    def build_prompts(
        self,
        pictures: Image.Image | Sequence[Image.Image],
        texts: Sequence[tuple[str, str | None]],
        history: Sequence[Message] = (),
    ) -> list[Prompt]:
        """Build a prompt for each (question, answer or None), all about the same pictures.

        Equal to ``build_prompt`` for each, but the image processor runs only once.

        Raises:
            InputError: a text contains the family's image placeholder or another special token.
        """
        own = (pictures,) if isinstance(pictures, Image.Image) else tuple(pictures)
        texts = [(q.strip(), None if answer is None else answer.strip()) for q, answer in texts]
        chats = [
            self.render_chat([*history, Message("user", question, own)], answer)
            for question, answer in texts
        ]
        given = [*(picture for message in history for picture in message.pictures), *own]
        rgb_pictures = [one if one.mode == "RGB" else one.convert("RGB") for one in given]
        inputs = self.process_pictures(rgb_pictures) if rgb_pictures else {}
        layouts = [
            self.layout(ProcessedPicture((picture.height, picture.width), inputs, index))
            for index, picture in enumerate(rgb_pictures)
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
        texts = [layout.text for layout in layouts]
        encoded = encode_chat(self.tokenizer, chat, self.placeholder, texts)
        token_ids = torch.tensor([encoded.token_ids])
        is_image = token_ids[0] == self.image_token_id
        picture_views = []
        for layout, (start, end) in zip(layouts, encoded.picture_spans, strict=True):
            positions = torch.arange(start, end)[is_image[start:end]]
            in_sequence = self.image_tokens_in_sequence
            picture_views.append(layout.views_at(positions) if in_sequence else layout.views)
        text_inputs = {"input_ids": token_ids, "attention_mask": torch.ones_like(token_ids)}
        is_answer = torch.arange(token_ids.shape[1]) >= encoded.answer_start
        token_types = self.compute_token_type_ids(token_ids[0], is_answer)
        text_inputs |= {name: marks[None] for name, marks in token_types.items()}
        return Prompt(
            inputs=text_inputs | {name: inputs[name] for name in self.image_input_names if layouts},
            picture_views=tuple(picture_views),
            question=question,
            question_start=encoded.question_start,
            question_offsets=encoded.question_offsets,
            answer_start=encoded.answer_start,
            answer=answer,
            answer_offsets=encoded.answer_offsets,
            image_tokens_in_sequence=self.image_tokens_in_sequence,
        )

    @torch.no_grad()
    def collate(self, prompts: Sequence[Prompt], keep_pixels: bool = False) -> PromptBatch:
        """Collate prompts into one batch, padded on the left, on the model's device, in its dtype.

        The vision tower runs here, for pictures whose features are not cached. ``keep_pixels``: the
        batch has the pixels instead, and the model runs its vision tower itself.
        """
        longest = max(prompt.length for prompt in prompts)
        padding = tuple(longest - prompt.length for prompt in prompts)
        vision_only = self.picture_features.input_names - set(self.position_input_names)
        inputs = {}
        for key in dict.fromkeys(key for prompt in prompts for key in prompt.inputs):
            if key in vision_only and not keep_pixels:
                continue
            parts = [prompt.inputs.get(key) for prompt in prompts]
            text_names = ("input_ids", "attention_mask", *self.token_type_input_names)
            if key in (*text_names, *self.sequence_input_names):
                fill = self.pad_token_id if key == "input_ids" else 0
                parts = [
                    pad_sequence_start(part, left, fill)
                    for part, left in zip(parts, padding, strict=True)
                    if part is not None
                ]
            given = [part for part in parts if part is not None]
            axis = -1 if len(given) > 1 and key in self.packed_input_names else 0
            inputs[key] = self._to_device(pad_and_concatenate(given, axis))
        if any(padding) and not self.computes_position_ids:
            # Positions start at each sequence's first token that is no padding.
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        encodes = not keep_pixels and any(prompt.picture_views for prompt in prompts)
        pictures = self.encode_pictures(prompts) if encodes else {}
        return PromptBatch(tuple(prompts), inputs, padding, pictures)

    def encode_pictures(self, prompts: Sequence[Prompt]) -> Mapping[str, object]:
        """Return what the model takes in place of the pixels of a batch with pictures."""
        inputs = [prompt.inputs for prompt in prompts if prompt.picture_views]
        features = self.picture_features.get_batch(inputs, self._to_device)
        return {"mm_encoder_outputs": {"image": features}}

    @torch.no_grad()
    def generate(
        self,
        prompt: Prompt,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        on_token: Callable[[int], None] | None = None,
    ) -> Generation:
        """Generate the model's answer, exactly as transformers' ``generate`` does.

        ``temperature`` 0 takes the likeliest token at every step; above 0, tokens are sampled with
        torch's global generator. ``on_token``: called with every new token, end token included.

        Raises:
            InputError: ``max_new_tokens`` is below 1 or ``temperature`` below 0.
        """
        inputs = self.collate([prompt]).model_inputs
        return generate_answer(self, inputs, prompt, max_new_tokens, temperature, on_token)
