"""Where in the picture each pixel value of an image processor's output comes from.

The image processor runs on pictures whose brightness tells the place. Nothing needs to be known of
how it resizes, crops, pads, cuts up or arranges pictures.

Letters: ``V`` the shape of an image processor's pixel values, which may be any.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flmm.types import Size

# Resizing overshoots at edges, by less than this share of the whole range.
_OVERSHOOT = 0.15
_ZOOM_BELOW = 0.5
COLOURS = 3
_ZOOMS = 2


@dataclass(frozen=True, eq=False)
class PixelSources:
    """The place in the picture that each pixel value shows, in fractions of width and height.

    Precise to about 1/255 of what is shown; NaN where padding is.
    """

    x: Tensor
    """(V) float32: 0 at the picture's left edge, 1 at its right edge."""
    y: Tensor
    """(V) float32: 0 at the top, 1 at the bottom."""

    @cached_property
    def have_canvases(self) -> bool:
        """Whether V is (..., C, H, W) or (..., H, W, C), and the last column is on the right.

        A strip of patches may have that shape too, but each row of patches begins on the left.
        """
        shape = tuple(self.x.shape)
        if len(shape) <= 3 or COLOURS not in (shape[-3], shape[-1]):
            return False
        places = self.x.nanmean(dim=(-3, -2) if shape[-3] == COLOURS else (-3, -1))
        farthest = places.nan_to_num(-torch.inf).cummax(dim=-1).values
        width = farthest[..., -1:] - places.nan_to_num(torch.inf).amin(dim=-1, keepdim=True)
        # Resizing may overshoot at edges.
        return not bool((places < farthest - width / 2).any())


def find_pixel_sources(
    process: Callable[[Image.Image], Tensor], picture: Size
) -> PixelSources | None:
    """Find the sources of the pixel values of pictures of one size.

    Args:
        process: from an RGB picture to its (V) pixel values.
        picture: the size.

    Returns:
        None if pixel values are no linear function of the picture's.
    """
    height, width = picture
    size = (width, height)
    black = process(Image.new("RGB", size, "black")).float()
    contrast = process(Image.new("RGB", size, "white")).float() - black
    shown = contrast.abs() > 1e-6

    def measure(brightness: NDArray[np.float64]) -> Tensor:
        levels = np.rint(brightness.clip(0, 1) * 255).astype(np.uint8)
        coded = Image.fromarray(np.ascontiguousarray(np.broadcast_to(levels, picture)))
        return (process(coded.convert("RGB")).float() - black) / contrast

    found = []
    for places in ((np.arange(width) + 0.5) / width, (np.arange(height)[:, None] + 0.5) / height):
        place = measure(places)
        if not shown.any() or (place[shown] - 0.5).abs().max() > 0.5 + _OVERSHOOT:
            return None
        length = 1.0
        for _ in range(_ZOOMS):
            first, last = (float(edge) for edge in place[shown].aminmax())
            if last - first > _ZOOM_BELOW * length:
                break
            # A part of a long picture: 255 levels for that part alone.
            start, length = first - 0.01 * length, last - first + 0.02 * length
            place = measure((places - start) / length) * length + start
        found.append(torch.where(shown, place, torch.nan))
    return PixelSources(*found)
