"""Resizing of a large picture before its image processor does it, to the very same pixels.

transformers' image processors copy a picture several times before Pillow resizes it: 24 megapixels
take 600 MB. What Pillow makes of the picture itself they leave as it is, since it has their size.
"""

from typing import Protocol, cast

from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import SizeDict
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from flmm.lmm.image_processing import resized_size
from flmm.types import Size

_ROWS_AT_ONCE = 256


class _Settings(Protocol):
    """What image processors have, but transformers does not declare."""

    do_resize: bool | None
    resample: object
    size: object
    image_mean: tuple[float, float, float] | None
    patch_size: int
    """Of Qwen2-VL's."""
    merge_size: int
    """Of Qwen2-VL's."""


def resize_early(image_processor: BaseImageProcessor, picture: Image.Image) -> Image.Image:
    """Return a picture of which an image processor makes the same tensor as of an RGB picture.

    Returns:
        A smaller picture; or the picture itself, where the processor would not shrink it, or does
        not begin with resizing as ``PilBackend``, LLaVA's or Qwen2-VL's do.
    """
    original = (picture.height, picture.width)
    padded = _find_padded_size(image_processor, original)
    target = _find_resized_size(image_processor, padded)
    if target is None or target[0] * target[1] >= original[0] * original[1]:
        return picture
    is_kept = _find_padded_size(image_processor, target) == target
    if not is_kept or _find_resized_size(image_processor, target) != target:
        return picture
    settings = cast(_Settings, image_processor)
    resample = Image.Resampling(cast(int, settings.resample))
    if padded == original:
        return picture.resize(target[::-1], resample)
    red, green, blue = (int(mean * 255) for mean in settings.image_mean or (0.0, 0.0, 0.0))
    return _resize_padded(picture, (red, green, blue), target, resample)


def _find_padded_size(image_processor: BaseImageProcessor, picture: Size) -> Size:
    """Return the (height, width) to which a picture is padded before it is resized."""
    if isinstance(image_processor, LlavaImageProcessorPil) and image_processor.do_pad:
        return max(picture), max(picture)
    return picture


def _find_resized_size(image_processor: BaseImageProcessor, picture: Size) -> Size | None:
    """Return the (height, width) to which a padded picture is resized; None if it is not known."""
    settings = cast(_Settings, image_processor)
    if (
        not isinstance(image_processor, PilBackend)
        or not settings.do_resize
        or not isinstance(settings.resample, int)
        or not isinstance(settings.size, SizeDict)
    ):
        return None
    kind, size = type(image_processor), settings.size
    resizes_first = kind is LlavaImageProcessorPil or kind._preprocess is PilBackend._preprocess
    if resizes_first and kind.resize is PilBackend.resize:
        resized = resized_size(size, picture)
        return None if 0 in resized else resized
    # Its module takes time to import.
    if kind.__name__ == "Qwen2VLImageProcessorPil":
        from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as qwen2_vl

        least, most = size.shortest_edge, size.longest_edge
        if kind is qwen2_vl.Qwen2VLImageProcessorPil and least and most:
            factor = settings.patch_size * settings.merge_size
            try:
                resized = qwen2_vl.smart_resize(*picture, factor, least, most)
            except ValueError:  # so long or wide that the processor refuses it
                return None
            return cast(Size, resized)
    return None


def _resize_padded(
    picture: Image.Image, fill: tuple[int, int, int], size: Size, resample: Image.Resampling
) -> Image.Image:
    """Return what ``resize`` makes of a picture that is padded to a centred square.

    Pillow resizes each row, and then each column of the result; so the square itself, which takes
    more memory than the picture, is only made in bands of rows.
    """
    side = max(picture.size)
    left, top = (side - picture.width) // 2, (side - picture.height) // 2
    narrow = Image.new("RGB", (size[1], side))
    for first in range(0, side, _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, side - first)
        band = Image.new("RGB", (side, rows), fill)
        upper = max(first - top, 0)
        lower = min(first + rows - top, picture.height)
        if upper < lower:
            part = picture.crop((0, upper, picture.width, lower))
            band.paste(part, (left, upper + top - first))
        narrow.paste(band.resize((size[1], rows), resample), (0, first))
    return narrow.resize(size[::-1], resample)
