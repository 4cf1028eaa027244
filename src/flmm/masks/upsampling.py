"""Enlarging attention maps and convolving them, without ever holding the enlarged maps.

Letters: ``P`` phrases, ``C`` maps a phrase, ``O`` channels after the convolution, ``h w``
image-token grid, ``a b`` the enlarged grid, padded.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from flmm.types import Size


def compute_upsampled_size(maps: Tensor, longer_side: int) -> Size:
    """(height, width) of (P, C, h, w) maps, enlarged so that the longer one is ``side``.

    Maps whose longer side is ``side`` or more keep their size.
    """
    scale = _scale_factor(maps, longer_side)
    return int(maps.shape[2] * scale), int(maps.shape[3] * scale)


def _scale_factor(maps: Tensor, longer_side: int) -> float:
    # The floor of side * (64 / side) is 63 for some sides (49 is the first), hence the nudge.
    return max(longer_side / max(maps.shape[2:]), 1) * (1 + 1e-9)


class UpsamplingConvolution(nn.Conv2d):
    """Bilinear enlargement, zero padding, and a 3x3 convolution without bias, in one step.

    All of it is linear, and enlarging treats all maps alike; so the hundreds of maps are first
    projected on the small grid, once for each of the nine taps, and only what the taps make of
    them is enlarged. The result is the same up to rounding.

    Args:
        in_channels: maps a phrase.
        out_channels: channels after the convolution.
        side: length of the enlarged grid's longer side; larger maps keep their size.
        multiple: what the sides are filled up to a multiple of, with zeros below and on the right.
    """

    def __init__(
        self, in_channels: int, out_channels: int, longer_side: int, pad_multiple: int
    ) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)
        self.longer_side = longer_side
        self.pad_multiple = pad_multiple

    def forward(self, maps: Tensor) -> Tensor:
        """(P, C, h, w) to (P, O, a, b)."""
        scale = _scale_factor(maps, self.longer_side)
        rows, columns = (self._resize_matrices(length, scale, maps) for length in maps.shape[2:])
        # Dimensions: phrase p, output o, vertical tap i, row h, horizontal tap j, column w.
        taps = torch.einsum("ocij,pchw->poihjw", self.weight, maps)
        enlarged = rows.flatten(1) @ taps.flatten(4).flatten(2, 3) @ columns.flatten(1).T
        # The convolutions that follow keep this order, in which a CPU takes a third less time.
        return enlarged.contiguous(memory_format=torch.channels_last)

    def _resize_matrices(self, length: int, scale: float, like: Tensor) -> Tensor:
        """(a, 3, length): the matrix that enlarges one axis, as each of the three taps sees it."""
        resize = functional.interpolate(
            torch.eye(length, device=like.device)[None],
            scale_factor=scale,
            mode="linear",
            align_corners=False,
        )[0].T
        below = -len(resize) % self.pad_multiple
        padded = functional.pad(resize, (0, 0, 1, below + 1))
        return padded.unfold(0, 3, 1).transpose(1, 2).to(like.dtype)
