"""A call of an image processor: pictures that it would shrink are shrunk before, its refusals."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import cast

from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor

from flmm.errors import InputError, first_line
from flmm.lmm.early_resizing import resize_early

Pictures = Sequence[Image.Image] | Sequence[Sequence[Image.Image]]
"""Those of a conversation; in a list of their own for processors that ask for that."""


def run_image_processor(
    image_processor: Callable[..., Mapping[str, Tensor]], pictures: Pictures, **options: bool
) -> Mapping[str, Tensor]:
    """Call an image processor, or a processor with its text.

    Raises:
        InputError: it refuses a picture, such as one that is much longer than wide.
    """
    given = pictures
    if isinstance(image_processor, BaseImageProcessor):
        given = cast(Pictures, [_resize_each(image_processor, entry) for entry in pictures])
    try:
        return image_processor(given, return_tensors="pt", **options)
    # Of some, tensors do not fit each other then.
    except (ValueError, RuntimeError) as error:
        flat = chain.from_iterable(
            [entry] if isinstance(entry, Image.Image) else entry for entry in pictures
        )
        sizes = " or ".join(f"{picture.width}×{picture.height}" for picture in flat)
        raise InputError(
            f"the LMM's image processor refuses a picture of {sizes} pixels ({first_line(error)});"
            " cut it to another shape"
        ) from error


def _resize_each(
    image_processor: BaseImageProcessor, entry: Image.Image | Sequence[Image.Image]
) -> Image.Image | list[Image.Image]:
    if isinstance(entry, Image.Image):
        return resize_early(image_processor, entry)
    return [resize_early(image_processor, picture) for picture in entry]
