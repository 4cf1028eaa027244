"""The U-Net mask decoder: word-image attention to mask logits (paper section 3.2, step 3).

Letters: ``P`` phrases, ``M`` layers, ``N`` heads, ``h w`` image-token grid, ``h' w'`` the grid
upsampled so that its longer side is at least ``upsample_input``.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from flmm.errors import InputError
from flmm.masks.upsampling import UpsamplingConvolution, compute_upsampled_size


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size; the next norm's shift replaces its bias."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)


def _conv_norm_relu(convolution: nn.Conv2d) -> nn.Sequential:
    """Return the convolution, GroupNorm over all channels, and ReLU in sequence."""
    norm = nn.GroupNorm(1, convolution.out_channels)
    return nn.Sequential(convolution, norm, nn.ReLU(inplace=True))


def _double_conv(first: nn.Conv2d) -> nn.Sequential:
    channels = first.out_channels
    return nn.Sequential(_conv_norm_relu(first), _conv_norm_relu(_conv3x3(channels, channels)))


class UpStage(nn.Module):
    """A decoder stage: upsample by 2, concatenate the skip connection, convolve twice."""

    def __init__(self, coarse_channels: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(coarse_channels, channels, 1, bias=False)
        self.norm = nn.GroupNorm(1, channels)
        self.convolutions = _double_conv(_conv3x3(2 * channels, channels))

    def forward(self, coarse: Tensor, skipped: Tensor) -> Tensor:
        """Return (P, C, 2a, 2b) from ``coarse`` (P, 2C, a, b) and ``skipped`` (P, C, 2a, 2b)."""
        # A 1x1 convolution and a bilinear resize are both linear and act on different axes, so
        # their order does not matter; projecting first is a quarter of the work.
        doubled = functional.interpolate(
            self.project(coarse), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        doubled = functional.relu(self.norm(doubled))
        features: Tensor = self.convolutions(torch.cat([skipped, doubled], dim=1))
        return features


class MaskDecoder(nn.Module):
    """The U-Net from a phrase's attention maps to mask logits (paper section 3.2).

    Args:
        in_channels: maps a phrase, ``M * N`` (twice that for a tiled LMM).
        base_channels: channels of the first stage; each further stage has twice as many.
        stages: resolutions of the U-Net, at least 1.
        upsample_input: longer side that smaller maps are upsampled to before the first stage.
        normalise: whether each map is divided by its own sum first.

    Raises:
        InputError: a size is not positive.
    """

    def __init__(
        self,
        in_channels: int,
        base_channels: int = 64,
        stages: int = 4,
        upsample_input: int = 64,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        sizes = {
            "in_channels": in_channels,
            "base_channels": base_channels,
            "stages": stages,
            "upsample_input": upsample_input,
        }
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"MaskDecoder {name} is {size}; give a positive whole number")
        self.in_channels = in_channels
        self.upsample_input = upsample_input
        self.normalises_maps = normalise
        channels = [base_channels * 2**stage for stage in range(stages)]
        upsampling = UpsamplingConvolution(
            in_channels, base_channels, upsample_input, pad_multiple=2 ** (stages - 1)
        )
        self.down_stages = nn.ModuleList([_double_conv(upsampling)])
        self.down_stages.extend(
            _double_conv(_conv3x3(fine, coarse)) for fine, coarse in pairwise(channels)
        )
        self.up_stages = nn.ModuleList(
            UpStage(coarse, fine) for fine, coarse in reversed(list(pairwise(channels)))
        )
        self.classifier = nn.Conv2d(base_channels, 1, 1)

    def forward(self, attention: Tensor) -> Tensor:
        """Decode all phrases in one batch.

        Args:
            attention: (P, in_channels, h, w), not negative; with ``normalise``, a map's scale does
                not matter.

        Returns:
            (P, 1, h', w') logits over the LMM's canvas; the mask is where they are above 0.

        Raises:
            InputError: ``attention`` does not have ``in_channels`` maps a phrase.
        """
        if attention.ndim != 4 or attention.shape[1] != self.in_channels:
            raise InputError(
                f"attention is {tuple(attention.shape)}, the head needs "
                f"(phrases, {self.in_channels}, h, w); use the head made for this LMM"
            )
        maps = self.normalise_maps(attention) if self.normalises_maps else attention
        height, width = compute_upsampled_size(attention, self.upsample_input)
        logits: Tensor = self.classifier(self.decode(maps.to(self.classifier.weight.dtype)))
        return logits[:, :, :height, :width]

    def normalise_maps(self, attention: Tensor) -> Tensor:
        """Divide each of the (P, M*N, h, w) maps by its sum."""
        # In float32, as the sum of thousands of bfloat16 values has two digits only; a map of
        # zeros (a head that ignores the picture, in half precision) stays zeros.
        values = attention.float()
        total = values.sum(dim=(2, 3), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return values / total

    def decode(self, features: Tensor) -> Tensor:
        """Run the U-Net: (P, M*N, h, w) to (P, base_channels, a, b).

        ``a b`` are ``h' w'``, padded to multiples of 2^(stages-1).
        """
        skipped: list[Tensor] = []
        for index, stage in enumerate(self.down_stages):
            if index:
                features = functional.max_pool2d(features, 2)
            features = stage(features)
            skipped.append(features)
        skipped.pop()
        for stage in self.up_stages:
            features = stage(features, skipped.pop())
        return features
