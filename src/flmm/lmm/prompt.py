"""A conversation about pictures as one frozen LMM's inputs.

Letters: ``h w`` image-token grid, ``L`` tokens of the whole sequence, ``B`` sequences in a batch,
``C`` image tokens of a prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from flmm.types import ImageGeometry, Size

Offsets = tuple[tuple[int, int], ...]
"""(start, end) in code points, one pair a token."""


@dataclass(frozen=True)
class Message:
    """One thing that was said in a conversation; its pictures stand before its text."""

    role: Literal["system", "user", "assistant"]
    text: str
    pictures: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class PictureView:
    """One grid of image tokens that shows a whole picture: one canvas, or tiles put together."""

    token_positions: Tensor
    """(h, w) int64: positions in the sequence (in a layout, among the picture's image tokens)."""
    geometry: ImageGeometry


@dataclass(frozen=True)
class ProcessedPicture:
    """One picture of a conversation after the image processor."""

    size: Size
    inputs: Mapping[str, Tensor]
    """What the image processor made of all the conversation's pictures."""
    index: int
    """Which of them this one is."""


@dataclass(frozen=True)
class PictureLayout:
    """How a family writes one picture into the sequence."""

    text: str
    """What stands for the picture in the text that the tokenizer reads."""
    views: tuple[PictureView, ...]
    """Coarse before fine; always as many as the adapter says."""


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model's inputs, on the CPU so that workers can prepare it."""

    inputs: Mapping[str, Tensor]
    """``input_ids`` (1, L), ``attention_mask`` (1, L), ``pixel_values`` and the family's others."""
    picture_views: tuple[tuple[PictureView, ...], ...]
    """The views of each picture."""
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

    @property
    def image_token_positions(self) -> Tensor:
        """(C,) int64: positions of all views' image tokens, one view after the other."""
        columns = [view.token_positions.flatten() for views in self.picture_views for view in views]
        return torch.cat([torch.zeros(0, dtype=torch.int64), *columns])


@dataclass(frozen=True)
class PromptBatch:
    """Prompts padded on the left to one length, on the model's device."""

    prompts: tuple[Prompt, ...]
    inputs: Mapping[str, Tensor]
    left_padding: tuple[int, ...]
    """Columns that were put before each prompt."""
    features: BaseModelOutputWithPooling | None = None
    """What the vision tower made of the pictures, unless the inputs hold the pixels."""

    @property
    def model_inputs(self) -> Mapping[str, object]:
        """The keyword arguments of the model's ``forward`` and ``generate``."""
        if self.features is None:
            return self.inputs
        return {**self.inputs, "mm_encoder_outputs": {"image": self.features}}

    @property
    def image_token_positions(self) -> Tensor:
        """(B, longest C) int64, on the CPU: where in the padded sequences; short rows end in -1."""
        return torch.nn.utils.rnn.pad_sequence(
            [
                p.image_token_positions + before
                for p, before in zip(self.prompts, self.left_padding, strict=True)
            ],
            batch_first=True,
            padding_value=-1,
        )


def pad_and_concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Pictures' tensors one after the other, the smaller ones filled up with zeros."""
    largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    filled = []
    for part in parts:
        missing = [
            amount
            for size, wanted in zip(reversed(part.shape[1:]), reversed(largest), strict=True)
            for amount in (0, wanted - size)
        ]
        filled.append(torch.nn.functional.pad(part, missing) if any(missing) else part)
    return torch.cat(filled)
