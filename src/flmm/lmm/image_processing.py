"""Image processors with one canvas for each picture, and the picture's geometry on it."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_transforms import (
    get_resize_output_image_size,
    get_size_with_aspect_ratio,
)
from transformers.image_utils import (
    ChannelDimension,
    SizeDict,
    get_image_size_for_max_height_width,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.utils.import_utils import is_torchvision_available

from flmm.errors import InputError
from flmm.lmm.prompt import PictureView
from flmm.types import ImageGeometry, Size

# Those of most checkpoints; importing only these is a second faster than the auto classes.
_COMMON_IMAGE_PROCESSORS: dict[str, type[PilBackend]] = {
    "CLIPImageProcessor": CLIPImageProcessorPil,
    "LlavaImageProcessor": LlavaImageProcessorPil,
}


@dataclass(frozen=True)
class PreprocessingSteps:
    """The steps of an image processor that move or scale a picture, in order."""

    pad_to_square: bool
    """Whether the picture is first centred on a square of its longer side."""
    resize: SizeDict | None
    crop: Size | None
    """The size of the centre crop; a side that is too short is padded instead."""

    @classmethod
    def from_image_processor(cls, image_processor: BaseImageProcessor) -> Self:
        """Read the steps from an image processor's settings.

        Raises:
            InputError: it pads in a way whose offsets are unknown.
        """
        settings = image_processor.to_dict()
        pads = bool(settings.get("do_pad"))
        if pads and not isinstance(image_processor, LlavaImageProcessorPil):
            raise InputError(
                f"image processor {type(image_processor).__name__!r} pads pictures in a way flmm"
                " does not know; set do_pad to false in preprocessor_config.json"
            )
        crop = settings.get("crop_size") if settings.get("do_center_crop") else None
        return cls(
            pad_to_square=pads,
            resize=SizeDict(**settings["size"]) if settings.get("do_resize") else None,
            crop=None if crop is None else (int(crop["height"]), int(crop["width"])),
        )

    def compute_geometry(self, picture: Size, patch_size: int) -> ImageGeometry:
        """Compute a picture's geometry in whole pixels, with grid cells of ``patch_size`` pixels.

        Only the edges of a picture padded before it is resized can lie between pixels; they are
        rounded to the nearest, and the picture is at least one pixel in height and width.

        Raises:
            InputError: the picture is so narrow that the processor leaves nothing of it.
        """
        padded, start = picture, (0, 0)
        if self.pad_to_square:
            side = max(picture)
            padded, start = (side, side), ((side - picture[0]) // 2, (side - picture[1]) // 2)
        canvas = padded if self.resize is None else resized_size(self.resize, padded)
        if 0 in canvas:
            raise InputError(
                f"a picture of {picture[1]}×{picture[0]} pixels is too narrow: the model's image"
                f" processor makes it {canvas[1]}×{canvas[0]}; crop it to a broader part"
            )
        top, height = _scale_interval(start[0], picture[0], canvas[0] / padded[0])
        left, width = _scale_interval(start[1], picture[1], canvas[1] / padded[1])
        if self.crop is not None:
            top += _crop_offset(canvas[0], self.crop[0])
            left += _crop_offset(canvas[1], self.crop[1])
            canvas = self.crop
        grid = (canvas[0] // patch_size, canvas[1] // patch_size)
        return ImageGeometry(picture, (height, width), (top, left), canvas, grid)


def grid_view(geometry: ImageGeometry, leading_tokens: int = 0) -> PictureView:
    """Return the view whose image tokens are the grid, row by row, after ``leading_tokens``."""
    cells = torch.arange(geometry.grid[0] * geometry.grid[1]) + leading_tokens
    return PictureView(cells.reshape(geometry.grid), geometry)


def square_padded_geometry(picture: Size, canvas: int, grid: Size) -> ImageGeometry:
    """Return the geometry of a picture padded to a centred square, then resized to the canvas."""
    side = max(picture)
    starts = [(side - length) // 2 for length in picture]
    (top, height), (left, width) = (
        _scale_interval(start, length, canvas / side)
        for start, length in zip(starts, picture, strict=True)
    )
    return ImageGeometry(picture, (height, width), (top, left), (canvas, canvas), grid)


def letterboxed_geometry(picture: Size, canvas: int, min_size: int, grid: Size) -> ImageGeometry:
    """Return the geometry of a picture whose longer side is resized to the canvas, then centred.

    ``min_size``: the least resized height and width, in pixels.
    """
    scale = canvas / max(picture)
    height, width = (max(round(length * scale), min_size) for length in picture)
    offset = ((canvas - height) // 2, (canvas - width) // 2)
    return ImageGeometry(picture, (height, width), offset, (canvas, canvas), grid)


def load_image_processor(name: str, revision: str | None) -> BaseImageProcessor:
    """Load the checkpoint's image processor: its PIL version, or its only one, for torchvision.

    Raises:
        InputError: it has no PIL version, and torchvision is not installed.
        OSError, ValueError: it cannot be found or read.
    """
    settings, _ = PilBackend.get_image_processor_dict(name, revision=revision)
    kind = str(settings.get("image_processor_type", "CLIPImageProcessor"))
    kind = kind.removesuffix("Fast").removesuffix("Pil")
    if kind in _COMMON_IMAGE_PROCESSORS:
        return _COMMON_IMAGE_PROCESSORS[kind](**settings)
    from transformers.models.auto.auto_mappings import IMAGE_PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    # The PIL version's values are the same whether torchvision is installed or not.
    backends = [names for names in IMAGE_PROCESSOR_MAPPING_NAMES.values() if kind in names.values()]
    has_pil = not backends or any("pil" in names for names in backends)
    if not has_pil and not is_torchvision_available():
        raise InputError(
            f"LMM {name!r}: its image processor {kind!r} needs torchvision, which is not installed;"
            f" run: {torchvision_command()}"
        )
    load = AutoImageProcessor.from_pretrained
    processor: BaseImageProcessor = load(  # type: ignore[no-untyped-call]
        name, revision=revision, backend="pil" if has_pil else "torchvision"
    )
    return processor


def torchvision_command() -> str:
    """Return the command that installs the torchvision made for the torch that is installed."""
    # Without a label such as "+cpu", which PyPI does not have, the torch that is installed fits.
    version, _, _ = torch.__version__.partition("+")
    return f'pip install "torch=={version}" torchvision'


def resized_size(size: SizeDict, picture: Size) -> Size:
    """Return the (height, width) that ``PilBackend.resize`` gives, by transformers' own rules."""
    if size.shortest_edge and size.longest_edge:
        return get_size_with_aspect_ratio(picture, size.shortest_edge, size.longest_edge)
    if size.shortest_edge:
        # Only the shape is read; a broadcast scalar has it without taking memory.
        height, width = get_resize_output_image_size(
            np.broadcast_to(np.uint8(0), (3, *picture)),
            size.shortest_edge,
            default_to_square=False,
            input_data_format=ChannelDimension.FIRST,
        )
        return height, width
    if size.max_height and size.max_width:
        return get_image_size_for_max_height_width(picture, size.max_height, size.max_width)
    assert size.height is not None
    assert size.width is not None
    return size.height, size.width


def _scale_interval(start: int, length: int, scale: float) -> tuple[int, int]:
    """Return the (start, length) of the scaled interval in whole pixels, at least one long."""
    first, last = round(start * scale), round((start + length) * scale)
    if last > first:
        return first, last - first
    return math.floor((start + length / 2) * scale), 1


def _crop_offset(length: int, crop: int) -> int:
    """Return the offset on the canvas: not above 0 if cropped, above 0 if padded."""
    return -((length - crop) // 2) if length >= crop else math.ceil((crop - length) / 2)
