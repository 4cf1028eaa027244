"""A conversation about pictures as the inputs of an LMM, alone and in a batch.

Letters: ``h w`` image-token grid, ``L`` tokens of the whole sequence, ``B`` sequences in a batch,
``C`` image tokens of a prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from flmm.types import ImageGeometry, Size

Offsets = tuple[tuple[int, int], ...]
"""(start, end) in code points, one pair for each token."""


@dataclass(frozen=True)
class PictureView:
    """A grid of image tokens of a whole picture: of one canvas, or of tiles put together."""

    token_positions: Tensor
    """(h, w) int64: positions in the sequence; in a layout, among the picture's image tokens.

    Where ``image_tokens_in_sequence`` is false, positions among the vision encoder's outputs for
    all pictures of the conversation.
    """
    geometry: ImageGeometry


@dataclass(frozen=True)
class ProcessedPicture:
    """A picture of a conversation after the image processor."""

    size: Size
    inputs: Mapping[str, Tensor]
    """The image processor's tensors for all pictures of the conversation."""
    index: int
    """The index of this picture in ``inputs``."""


@dataclass(frozen=True)
class PictureLayout:
    """The text and the views of one picture in the prompt."""

    text: str
    """The text that replaces the picture's placeholder before the tokenizer runs."""
    views: tuple[PictureView, ...]
    """Coarse before fine; as many as ``LMMAdapter.views``, none if tokens have no place."""

    def views_at(self, positions: Tensor) -> tuple[PictureView, ...]:
        """Return the views of a picture whose image tokens have these positions."""
        return tuple(
            replace(view, token_positions=positions[view.token_positions]) for view in self.views
        )


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model's inputs, on the CPU so that data workers can prepare it."""

    inputs: Mapping[str, Tensor]
    """``input_ids`` (1, L), ``attention_mask`` (1, L), ``pixel_values`` and the family's others."""
    picture_views: tuple[tuple[PictureView, ...], ...]
    """The views of each picture; empty for an LMM whose image tokens have no place."""
    question: str
    question_start: int
    """Position of the question's first token."""
    question_offsets: Offsets
    """The span in ``question`` of each of its tokens."""
    answer_start: int
    """Position of the answer's first token: L if the answer is to be generated."""
    answer: str | None = None
    answer_offsets: Offsets | None = None
    """The span in ``answer`` of each of its tokens; None if it is to be generated."""
    image_tokens_in_sequence: bool = True
    """False for an LLM that attends to pictures in cross-attention layers of its own."""

    @property
    def length(self) -> int:
        """L: the number of tokens."""
        return self.inputs["input_ids"].shape[1]

    @property
    def image_token_positions(self) -> Tensor:
        """(C,) int64: the positions of all views' image tokens, one view after the other."""
        positions = [
            view.token_positions.flatten() for views in self.picture_views for view in views
        ]
        return torch.cat([torch.zeros(0, dtype=torch.int64), *positions])


@dataclass(frozen=True)
class PromptBatch:
    """Prompts padded on the left to one length, on the model's device."""

    prompts: tuple[Prompt, ...]
    inputs: Mapping[str, Tensor]
    left_padding: tuple[int, ...]
    """The number of padding tokens before each prompt."""
    picture_inputs: Mapping[str, object] = field(default_factory=dict)
    """What the model takes in place of pixels; empty without pictures or if ``inputs`` has them."""

    @property
    def model_inputs(self) -> Mapping[str, object]:
        """The keyword arguments of the model's ``forward`` and ``generate``."""
        return {**self.inputs, **self.picture_inputs}

    @property
    def image_token_positions(self) -> Tensor:
        """(B, largest C) int64, on the CPU: positions with padding; shorter rows end in -1.

        The vision encoder's outputs, where they are not in the sequence, have no padding.
        """
        return torch.nn.utils.rnn.pad_sequence(
            [
                prompt.image_token_positions + padding * prompt.image_tokens_in_sequence
                for prompt, padding in zip(self.prompts, self.left_padding, strict=True)
            ],
            batch_first=True,
            padding_value=-1,
        )


def pad_sequence_start(tensor: Tensor, padding: int, value: int = 0) -> Tensor:
    """Return (1, L, …) with ``padding`` rows before the L rows."""
    others = (0, 0) * (tensor.ndim - 2)
    return torch.nn.functional.pad(tensor, (*others, padding, 0), value=value)


def pad_and_concatenate(parts: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Concatenate tensors on an axis, the smaller ones padded with zeros on the others."""
    parts = [part.movedim(axis, 0) for part in parts]
    largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    padded = []
    for part in parts:
        padding = [
            amount
            for size, target in zip(reversed(part.shape[1:]), reversed(largest), strict=True)
            for amount in (0, target - size)
        ]
        padded.append(torch.nn.functional.pad(part, padding) if any(padding) else part)
    return torch.cat(padded).movedim(0, axis)
