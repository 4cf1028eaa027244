"""Phrases in the forms of other Python libraries.

Letters: ``N`` phrases, ``H W`` picture size.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from PIL import Image

from flmm.answers.phrase import Phrase
from flmm.errors import InputError
from flmm.types import Size

if TYPE_CHECKING:
    from supervision import Detections

_MAX_DENSE_PIXELS = 2**27
"""Of all masks of a ``Detections`` together; where there are more, run lengths stay such."""


class ImageSegment(TypedDict):
    """An entry of what the image-segmentation pipeline of transformers returns."""

    label: str
    score: float
    mask: Image.Image
    """(H, W), mode "L": 255 in the mask, 0 elsewhere."""


def to_image_segments(phrases: Sequence[Phrase]) -> list[ImageSegment]:
    """Return the phrases as the image-segmentation pipeline of transformers does."""
    return [
        {
            "label": phrase.text,
            "score": phrase.score,
            "mask": Image.fromarray(phrase.mask.view(np.uint8) * 255),
        }
        for phrase in phrases
    ]


def to_detections(phrases: Sequence[Phrase], size: Size) -> "Detections":
    """Return the phrases as supervision's ``Detections``; classes are the distinct texts.

    Raises:
        InputError: supervision is not installed.
    """
    try:
        from supervision import CompactMask, Detections
    except ImportError as error:
        raise InputError(
            "this needs supervision, not installed here; pip install 'flmm[supervision]'"
        ) from error
    if not phrases:
        return Detections.empty()
    names = list(dict.fromkeys(phrase.text for phrase in phrases))
    boxes = np.array([phrase.box for phrase in phrases])
    mask: object
    if len(phrases) * size[0] * size[1] > _MAX_DENSE_PIXELS:
        # Here, unlike in ``Detections``, boxes end with their last pixel.
        inclusive = np.maximum(boxes - [0, 0, 1, 1], 0)
        mask = CompactMask.from_coco_rle([phrase.rle for phrase in phrases], inclusive, size)
    else:
        mask = np.stack([phrase.mask for phrase in phrases])
    return Detections(
        xyxy=boxes.astype(np.float32),
        mask=mask,
        confidence=np.array([phrase.score for phrase in phrases], dtype=np.float32),
        class_id=np.array([names.index(phrase.text) for phrase in phrases]),
        data={"class_name": np.array([phrase.text for phrase in phrases])},
    )
