"""Traces with given attention maps, without an LMM.

Letters: ``M`` layers, ``N`` heads, ``T`` tokens of the text, ``h w`` image-token grid.
"""

import torch
from torch import Tensor

from flmm.attention.attention_rows import quantize_rows
from flmm.attention.trace import PictureAttention, RecordedRows, RowBlock, Trace
from flmm.lmm.prompt import PictureView
from flmm.types import ImageGeometry, PhraseSpan


def square_geometry(cells: int) -> ImageGeometry:
    """Return that of a picture of 16 pixels a cell, neither padded nor cropped."""
    size = (16 * cells, 16 * cells)
    return ImageGeometry(size, size, (0, 0), size, (cells, cells))


def build_attention(maps: Tensor, geometry: ImageGeometry | None = None) -> PictureAttention:
    """Return attention of (M, N, T, h, w) maps."""
    tokens, height, width = maps.shape[2:]
    geometry = geometry or square_geometry(height)
    rows = RowBlock(*quantize_rows(maps.flatten(3).permute(2, 0, 1, 3).contiguous()))
    positions = torch.arange(height * width).reshape(height, width)
    return PictureAttention(RecordedRows((rows,), tokens), (PictureView(positions, geometry),), 0)


def build_trace(
    maps: Tensor, geometry: ImageGeometry | None = None, reference: Tensor | None = None
) -> Trace:
    """Return a trace of (M, N, T, h, w) maps; ``reference``: another text's maps."""
    layers, _, tokens = maps.shape[:3]
    return Trace(
        torch.arange(tokens),
        (build_attention(maps, geometry),),
        torch.zeros(layers, tokens, 8),
        torch.zeros(tokens, 8),
        None if reference is None else build_attention(reference, geometry),
    )


def phrase_of(*tokens: int) -> PhraseSpan:
    """Return a phrase of these tokens."""
    return PhraseSpan("phrase", tokens[0], tokens[-1] + 1, tokens)


def random_maps(*shape: int, seed: int = 0) -> Tensor:
    """Return maps of noise, of sum 1 / 2 each."""
    maps = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.05
    return maps / maps.sum(dim=(-2, -1), keepdim=True) / 2
