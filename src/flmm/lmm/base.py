"""What every LMM family offers, so that nothing to the right of this folder knows families.

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid, ``T`` tokens of the answer, ``D`` LLM
width, ``L`` tokens of the whole sequence, ``B`` sequences in a batch.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self, cast

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from flmm.errors import InputError
from flmm.types import ImageGeometry

Request = tuple[Image.Image, str, str | None]
"""(picture, question, answer); the answer is None where the model shall say it."""

Offsets = tuple[tuple[int, int], ...]
"""(start, end) in code points, one pair a token."""


@dataclass(frozen=True)
class Prompt:
    """One picture and its chat as the model's inputs, on the CPU so that workers can prepare it."""

    inputs: Mapping[str, Tensor]
    """``input_ids`` (1, L), ``attention_mask`` (1, L), ``pixel_values`` and the family's others."""
    image_columns: Tensor
    """(h·w,) int64: positions of the image tokens in the sequence, row by row of the grid."""
    geometry: ImageGeometry
    question: str
    question_start: int
    """Position of the question's first token."""
    question_offsets: Offsets
    """The question's tokens in ``question``."""
    answer_start: int
    """Position of the answer's first token: L where the model shall say it."""
    answer: str | None = None
    answer_offsets: Offsets | None = None
    """The answer's tokens in ``answer``; None where the model shall say it."""

    @property
    def length(self) -> int:
        """L."""
        return self.inputs["input_ids"].shape[1]


@dataclass(frozen=True)
class PromptBatch:
    """Prompts padded on the left to one length, on the model's device."""

    prompts: tuple[Prompt, ...]
    inputs: Mapping[str, Tensor]
    padding: tuple[int, ...]
    """Columns that were put before each prompt."""
    image_columns: Tensor
    """(B, h·w) int64: positions of the image tokens in the padded sequences."""


@dataclass(frozen=True)
class Generation:
    """What the model said: its tokens without the closing end-of-sequence token, and their text."""

    token_ids: Tensor
    """(T,) int64, on the CPU."""
    text: str


@dataclass
class _TokenCallback(BaseStreamer):
    """Hands each new token to a function; ``generate`` pushes the prompt first."""

    on_token: Callable[[int], None]
    prompt_seen: bool = field(default=False, init=False)

    def put(self, value: Tensor) -> None:
        if self.prompt_seen:
            self.on_token(int(value.item()))
        self.prompt_seen = True

    def end(self) -> None:
        """Nothing is held back."""


class LMMAdapter(ABC):
    """A frozen LMM of one family.

    A family is one file here with one subclass that sets ``model_types`` and writes the abstract
    members; the contract tests find it by themselves.
    """

    model_types: ClassVar[tuple[str, ...]]
    """The ``model_type`` values in config.json that this family reads; a literal."""
    padded_inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    """Inputs of shape (1, L), padded on the left in a batch; all others are concatenated."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        revision: str | None = None,
    ) -> None:
        self.model = model
        self.model.train(False).requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self.lock = threading.RLock()
        """Held while recording: the recorder changes the model's configuration for a moment."""

    @classmethod
    @abstractmethod
    def load(
        cls,
        name: str,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
    ) -> Self:
        """The model in a folder or hub repository.

        Raises:
            InputError: a file of it is missing or cannot be used.
        """

    @classmethod
    @abstractmethod
    def tiny(cls, grouped_queries: bool = False) -> Self:
        """A small random model of the family, made without files, the same at every call.

        ``grouped_queries``: with fewer key heads than query heads.
        """

    @abstractmethod
    def prepare(self, image: Image.Image, question: str, answer: str | None = None) -> Prompt:
        """The model's inputs for a question about a picture, with the answer where it is given.

        White space around the question and the answer is taken off.

        Raises:
            InputError: the question or answer contains the family's image placeholder.
        """

    @property
    def text_model(self) -> PreTrainedModel:
        """The LLM's decoder stack, without the vision tower and without the vocabulary's head."""
        model = self.model.get_decoder()  # type: ignore[no-untyped-call]
        assert isinstance(model, PreTrainedModel)
        return model

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """The M layers, in order."""
        layers = self.text_model.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def final_norm(self) -> nn.Module:
        """The norm after the last layer."""
        norm = self.text_model.norm
        assert isinstance(norm, nn.Module)
        return norm

    @property
    def layers(self) -> int:
        """M."""
        return len(self.decoder_layers)

    @property
    def heads(self) -> int:
        """N: query heads of a layer."""
        return int(self.text_model.config.num_attention_heads)

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.text_model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def prepare_many(self, requests: Sequence[Request]) -> PromptBatch:
        """Several requests as one batch, padded on the left."""
        return self.collate([self.prepare(*request) for request in requests])

    def collate(self, prompts: Sequence[Prompt]) -> PromptBatch:
        """Prompts as one batch, padded on the left, on the model's device and in its type."""
        longest = max(prompt.length for prompt in prompts)
        padding = tuple(longest - prompt.length for prompt in prompts)
        inputs = {}
        for key in prompts[0].inputs:
            parts = [prompt.inputs[key] for prompt in prompts]
            if key in self.padded_inputs:
                fill = self._pad_token_id if key == "input_ids" else 0
                parts = [
                    nn.functional.pad(part, (columns, 0), value=fill)
                    for part, columns in zip(parts, padding, strict=True)
                ]
            joined = torch.cat(parts)
            inputs[key] = joined.to(self.device, self.dtype if joined.is_floating_point() else None)
        if any(padding):
            inputs |= self.positions(inputs)
        columns = [
            prompt.image_columns + before for prompt, before in zip(prompts, padding, strict=True)
        ]
        return PromptBatch(tuple(prompts), inputs, padding, torch.stack(columns).to(self.device))

    def positions(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The positions of a padded batch, counted from each sequence's first real token."""
        return {"position_ids": (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)}

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
        if temperature < 0:
            raise InputError(f"temperature is {temperature}; give 0 (no chance) or more")
        inputs = self.collate([prompt]).inputs
        sampling: dict[str, float | bool | None] = (
            {"do_sample": True, "temperature": temperature}
            if temperature > 0
            else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        )
        # transformers types generate for a protocol that its own models do not meet.
        sequences = cast(Callable[..., Tensor], self.model.generate)(
            **inputs,
            **sampling,
            max_new_tokens=max_new_tokens,
            num_beams=1,
            pad_token_id=self._pad_token_id,
            streamer=None if on_token is None else _TokenCallback(on_token),
        )
        token_ids = sequences[0, prompt.length :].cpu()
        if len(token_ids) and int(token_ids[-1]) in self.end_token_ids:
            token_ids = token_ids[:-1]
        return Generation(token_ids, self.decode(token_ids))

    def decode(self, token_ids: Tensor) -> str:
        """The text of an answer's tokens, without special tokens and outer white space."""
        text = self.tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text.strip()

    @property
    def end_token_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        configured = self.model.generation_config
        ends = configured.eos_token_id if configured is not None else None
        if ends is None:
            return frozenset()
        return frozenset([ends] if isinstance(ends, int) else ends)

    @property
    def _pad_token_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        if pad is None:
            # Padding is masked, so any token does where the tokenizer has none of its own.
            pad = min(self.end_token_ids, default=0)
        assert isinstance(pad, int)
        return pad
