"""What the frozen LMM did while it said (or was made to say) an answer.

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid, ``T`` tokens of the answer, ``D`` LLM
width, ``C`` image tokens of all pictures and views, ``S`` rows of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flmm.attention.attention_rows import expanded
from flmm.attention.merge import Merge, merge_phrase
from flmm.errors import InputError
from flmm.lmm.prompt import View
from flmm.pictures.geometry import bring_to_grid
from flmm.types import ImageGeometry


@dataclass(frozen=True)
class RowBlock:
    """Rows of consecutive tokens at 2 bytes a value (``rows.compressed``)."""

    levels: Tensor
    """(S, M, N, C) int16."""
    largest: Tensor
    """(S, M, N) float32: each row's largest value."""


@dataclass(frozen=True)
class RecordedRows:
    """The attention rows of an answer's tokens, cut to the image tokens."""

    blocks: tuple[RowBlock, ...]
    """All of the same S, except that the last rows of the last one may be missing."""
    count: int
    """T."""

    def of_tokens(self, tokens: Sequence[int], columns: slice) -> Tensor:
        """(M, N, tokens, columns) float32, in 0..1."""
        size = len(self.blocks[0].levels)
        picked = [
            (self.blocks[token // size].levels[token % size, ..., columns],
             self.blocks[token // size].largest[token % size])
            for token in tokens
        ]  # fmt: skip
        if not picked:
            return self.blocks[0].levels[:0, ..., columns].float().permute(1, 2, 0, 3)
        levels, largest = (torch.stack(parts, dim=2) for parts in zip(*picked, strict=True))
        return expanded(levels, largest)


@dataclass(frozen=True)
class WordImageAttention:
    """How the tokens of an answer attended to one picture (paper section 3.1).

    Each token's attention after the softmax over all earlier tokens, cut to the image tokens and
    folded to their grid. A tiled LMM has 2·M in the place of M: the coarse view's maps, brought to
    the fine grid, and then the fine ones (section 1.7).
    """

    rows: RecordedRows
    views: tuple[View, ...]
    start: int
    """Of the picture's columns among the recorded ones."""

    @property
    def geometry(self) -> ImageGeometry:
        """Of the finest view, whose grid all maps are on."""
        return self.views[-1].geometry

    @property
    def attention(self) -> Tensor:
        """(M, N, T, h, w) float32, in 0..1, of all tokens; made anew at each call."""
        return self.of_tokens(range(self.rows.count))

    def of_tokens(self, tokens: Sequence[int]) -> Tensor:
        """(M, N, tokens, h, w) float32, in 0..1.

        Raises:
            InputError: a token is not in 0..T-1.
        """
        if any(not 0 <= token < self.rows.count for token in tokens):
            raise InputError(
                f"tokens {list(tokens)} are not all in 0..{self.rows.count - 1};"
                " give the indices of tokens of the answer"
            )
        maps = []
        start = self.start
        for view in self.views:
            end = start + view.columns.numel()
            rows = self.rows.of_tokens(tokens, slice(start, end))
            grid = rows.reshape(*rows.shape[:-1], *view.geometry.grid)
            maps.append(bring_to_grid(grid, view.geometry, self.geometry))
            start = end
        return maps[0] if len(maps) == 1 else torch.cat(maps)

    def of_phrase(self, tokens: Sequence[int], merge: Merge = "mean") -> Tensor:
        """(M*N, h, w): the maps of one phrase's tokens, merged.

        Raises:
            InputError: no token, or one that is not in 0..T-1.
        """
        return merge_phrase(self.of_tokens(tokens), merge)


@dataclass(frozen=True)
class Trace:
    """What the frozen LMM did while it said (or was made to say) one answer."""

    token_ids: Tensor
    """(T,) int64: the answer's tokens."""
    pictures: tuple[WordImageAttention, ...]
    """One for each picture of the conversation, in its order."""
    hidden_states: Tensor
    """(M, T, D): each token's state after every layer, the last one after the final norm."""

    @property
    def picture(self) -> WordImageAttention:
        """The attention to the only picture.

        Raises:
            ValueError: the conversation has none or several.
        """
        if len(self.pictures) != 1:
            raise ValueError(f"the conversation has {len(self.pictures)} pictures; choose one")
        return self.pictures[0]

    @property
    def attention(self) -> Tensor:
        """``picture.attention``."""
        return self.picture.attention

    @property
    def geometry(self) -> ImageGeometry:
        """``picture.geometry``."""
        return self.picture.geometry
