"""Upsampling of attention maps and a convolution in one step, without storing the upsampled maps.

Letters: ``P`` phrases, ``C`` maps a phrase, ``O`` channels after the convolution, ``h w``
image-token grid, ``a b`` the upsampled grid, padded.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from flmm.types import Size


def compute_upsampled_size(maps: Tensor, longer_side: int) -> Size:
    """Return (height, width) of (P, C, h, w) maps after upsampling to ``longer_side``.

    Maps whose longer side is ``longer_side`` or more keep their size.
    """
    scale = _scale_factor(maps, longer_side)
    return int(maps.shape[2] * scale), int(maps.shape[3] * scale)


def _scale_factor(maps: Tensor, longer_side: int) -> float:
    # The floor of side * (64 / side) is 63 for some sides (49 is the first), hence 1 + 1e-9.
    return max(longer_side / max(maps.shape[2:]), 1) * (1 + 1e-9)


class UpsamplingConvolution(nn.Conv2d):
    """Bilinear upsampling, zero padding, and a 3x3 convolution without bias, in one step.

    All of it is linear, and the upsampling is the same for all maps; so the hundreds of maps are
    first projected on the small grid, once for each of the nine taps, and only the projections are
    upsampled. The result is the same up to rounding.

    Args:
        in_channels: maps a phrase.
        out_channels: channels after the convolution.
        longer_side: of the upsampled grid; larger maps keep their size.
        pad_multiple: both sides are zero-padded to multiples of it, at the bottom and right.
    """

    def __init__(
        self, in_channels: int, out_channels: int, longer_side: int, pad_multiple: int
    ) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)
        self.longer_side = longer_side
        self.pad_multiple = pad_multiple

    def forward(self, maps: Tensor) -> Tensor:
        """Return (P, O, a, b) from (P, C, h, w)."""
        scale = _scale_factor(maps, self.longer_side)
        rows, columns = (self._resize_matrices(length, scale, maps) for length in maps.shape[2:])
        # Dimensions: phrase p, output o, vertical tap i, row h, horizontal tap j, column w.
        taps = torch.einsum("ocij,pchw->poihjw", self.weight, maps)
        upsampled = rows.flatten(1) @ taps.flatten(4).flatten(2, 3) @ columns.flatten(1).T
        # The following convolutions keep this format, which is a third faster on a CPU.
        return upsampled.contiguous(memory_format=torch.channels_last)

    def _resize_matrices(self, length: int, scale: float, like: Tensor) -> Tensor:
        """Return one axis's resize matrix, shifted for each of the three taps: (a, 3, length)."""
        resize = functional.interpolate(
            torch.eye(length, device=like.device)[None],
            scale_factor=scale,
            mode="linear",
            align_corners=False,
        )[0].T
        padding = -len(resize) % self.pad_multiple
        padded = functional.pad(resize, (0, 0, 1, padding + 1))
        return padded.unfold(0, 3, 1).transpose(1, 2).to(like.dtype)
