"""The recorded attention and hidden states of an answer, generated or given.

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid, ``T`` tokens of the answer, ``D`` LLM
width, ``C`` image tokens of all pictures and views, ``S`` rows of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flmm.attention.attention_rows import dequantize_rows
from flmm.attention.merge import MergeMethod, merge_token_maps
from flmm.errors import InputError
from flmm.lmm.prompt import PictureView, Prompt
from flmm.pictures.geometry import resample_to_grid
from flmm.types import ImageGeometry, PhraseSpan


@dataclass(frozen=True)
class RowBlock:
    """Rows of consecutive tokens at 2 bytes a value, from ``quantize_rows``."""

    quantized: Tensor
    """(S, M, N, C) int16."""
    row_max: Tensor
    """(S, M, N) float32: each row's maximum."""


@dataclass(frozen=True)
class RecordedRows:
    """The attention rows of an answer's tokens, cut to the image tokens."""

    blocks: tuple[RowBlock, ...]
    """All of the same S, except that the last rows of the last one may be missing."""
    num_tokens: int
    """T."""

    def token_rows(self, tokens: Sequence[int], columns: slice) -> Tensor:
        """Return the tokens' rows: (M, N, tokens, columns) float32, in 0..1."""
        size = len(self.blocks[0].quantized)
        rows = [
            (self.blocks[token // size].quantized[token % size, ..., columns],
             self.blocks[token // size].row_max[token % size])
            for token in tokens
        ]  # fmt: skip
        if not rows:
            return self.blocks[0].quantized[:0, ..., columns].float().permute(1, 2, 0, 3)
        quantized, row_max = (torch.stack(parts, dim=2) for parts in zip(*rows, strict=True))
        return dequantize_rows(quantized, row_max)


@dataclass(frozen=True)
class PictureAttention:
    """The attention of an answer's tokens to one picture (paper section 3.1).

    Each token's attention after the softmax over all earlier tokens, cut to the image tokens and
    reshaped to their grid. A tiled LMM has 2·M instead of M: the coarse view's maps, resampled to
    the fine grid, and then the fine ones (section 1.7).
    """

    rows: RecordedRows
    views: tuple[PictureView, ...]
    first_column: int
    """The first of the picture's columns in ``rows``."""

    @property
    def geometry(self) -> ImageGeometry:
        """The finest view's geometry, on whose grid all maps are."""
        return self.views[-1].geometry

    @property
    def attention(self) -> Tensor:
        """(M, N, T, h, w) float32, in 0..1: all tokens' maps, computed at each access."""
        return self.token_maps(range(self.rows.num_tokens))

    def token_maps(self, tokens: Sequence[int]) -> Tensor:
        """Return the tokens' maps: (M, N, tokens, h, w) float32, in 0..1.

        Raises:
            InputError: a token is not in 0..T-1.
        """
        if any(not 0 <= token < self.rows.num_tokens for token in tokens):
            raise InputError(
                f"tokens {list(tokens)} are not all in 0..{self.rows.num_tokens - 1};"
                " give the indices of tokens of the answer"
            )
        maps = []
        start = self.first_column
        for view in self.views:
            end = start + view.token_positions.numel()
            rows = self.rows.token_rows(tokens, slice(start, end))
            grid = rows.reshape(*rows.shape[:-1], *view.geometry.grid)
            maps.append(resample_to_grid(grid, view.geometry, self.geometry))
            start = end
        return maps[0] if len(maps) == 1 else torch.cat(maps)

    def phrase_maps(self, tokens: Sequence[int], merge: MergeMethod = "mean") -> Tensor:
        """Return the merged maps of one phrase's tokens: (M*N, h, w).

        Raises:
            InputError: no token, or one that is not in 0..T-1.
        """
        return merge_token_maps(self.token_maps(tokens), merge)


@dataclass(frozen=True)
class Trace:
    """The recorded attention and hidden states of one answer, generated or given."""

    token_ids: Tensor
    """(T,) int64: the answer's tokens."""
    picture_attentions: tuple[PictureAttention, ...]
    """One for each picture of the conversation, in order."""
    hidden_states: Tensor
    """(M, T, D): each token's state after every recorded layer; after the final norm, where the
    LLM's last layer is one of them."""
    final_states: Tensor
    """(T, D): each token's state after the final norm, which the next one is predicted from."""
    reference: PictureAttention | None = None
    """The attention of another text to the same picture, for contrast with a text that is one
    phrase."""

    @property
    def picture_attention(self) -> PictureAttention:
        """The attention to the conversation's only picture.

        Raises:
            ValueError: it has none or several.
        """
        if len(self.picture_attentions) != 1:
            raise ValueError(
                f"the conversation has {len(self.picture_attentions)} pictures; choose one"
            )
        return self.picture_attentions[0]

    @property
    def attention(self) -> Tensor:
        """``picture_attention.attention``."""
        return self.picture_attention.attention

    @property
    def geometry(self) -> ImageGeometry:
        """``picture_attention.geometry``."""
        return self.picture_attention.geometry


def split_by_picture(rows: RecordedRows, prompt: Prompt) -> tuple[PictureAttention, ...]:
    """Split a sequence's rows into the attention to each picture of its prompt."""
    pictures = []
    start = 0
    for views in prompt.picture_views:
        pictures.append(PictureAttention(rows, views, start))
        start += sum(view.token_positions.numel() for view in views)
    return tuple(pictures)


TracedPhrase = tuple[PhraseSpan, Trace]
"""A phrase and the trace of the text that its tokens index."""
