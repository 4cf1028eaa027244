"""Resizing of pictures that are zero nearly everywhere, such as masks.

Letters: ``H W`` picture size.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SUPPORT = 3
"""No filter of Pillow reaches farther, in pixels of the smaller picture."""


def resize_nonzero(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    resampling: Image.Resampling,
) -> Image.Image:
    """Return what Pillow's ``resize`` does, from the part of the picture that is not zero.

    Args:
        pixels: (H, W).
        size: (width, height) of the result.
        resampling: any filter.
    """
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    whole = Image.new("L", size)
    if not len(rows):
        return whole
    top, bottom, upper, lower = _find_ranges(rows, len(pixels), size[1])
    left, right, first, last = _find_ranges(columns, pixels.shape[1], size[0])
    part = Image.fromarray(pixels[upper:lower, first:last])
    scales = pixels.shape[1] / size[0], len(pixels) / size[1]
    box = (
        left * scales[0] - first,
        top * scales[1] - upper,
        min(right * scales[0] - first, part.width),
        min(bottom * scales[1] - upper, part.height),
    )
    whole.paste(part.resize((right - left, bottom - top), resampling, box), (left, top))
    return whole


def _find_ranges(nonzero: NDArray[np.intp], length: int, new_length: int) -> tuple[int, ...]:
    """Return which part of an axis changes, (begin, end), and what it is made of, (begin, end)."""
    scale = length / new_length
    reach = math.ceil(_SUPPORT * max(1 / scale, 1))
    begin = max(math.floor(nonzero[0] / scale) - reach, 0)
    end = min(math.ceil((nonzero[-1] + 1) / scale) + reach, new_length)
    margin = math.ceil(_SUPPORT * max(scale, 1))
    return (
        begin,
        end,
        max(math.floor(begin * scale) - margin, 0),
        min(math.ceil(end * scale) + margin, length),
    )
