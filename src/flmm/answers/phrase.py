"""A phrase of an answer with its mask in the picture.

Letters: ``H W`` picture size.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flmm.answers.json_types import CocoRLE, PhraseJson
from flmm.answers.polygons import Polygon, mask_to_polygons
from flmm.answers.run_lengths import decode_rle, decode_rle_in_box
from flmm.errors import InputError

if TYPE_CHECKING:
    from flmm.masks.low_resolution import LowResolutionLogits
    from flmm.types import Box


@dataclass(frozen=True, eq=False)
class Phrase:
    """A phrase of an answer and its mask in the picture.

    The mask is kept as run lengths, the probabilities as the logits that they are enlarged from:
    both become arrays of the picture's size at each access, so keep one that is used repeatedly.
    """

    text: str
    start: int
    """First code point in the answer's text."""
    end: int
    """One past the last code point."""
    tokens: tuple[int, ...]
    """Indices of its tokens in the answer; after ``Grounder.segment``, in the phrase's own."""
    rle: CocoRLE = field(repr=False)
    """The mask as COCO's compressed run lengths."""
    box: "Box"
    """(x0, y0, x1, y1) in pixels, x1 and y1 exclusive; all 0 when the mask is empty."""
    score: float
    """In 0..1: the probability that the phrase is in the picture and the mask right, with an IoU
    above 0.5; without a calibrated head, the mean probability inside the mask. 0 when it is
    empty."""
    logits: "LowResolutionLogits | None" = field(default=None, repr=False)
    """(1, a, b) logits of the mask before they are enlarged to the picture; None where the mask was
    not predicted."""
    picture: int = 0
    """Which of the conversation's pictures the mask is of, from 0."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) bool."""
        return decode_rle(self.rle, self.box)

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(H, W), in 0..1: each pixel's probability to be in the mask.

        The mask is where they are above ``mask_threshold``, but for ``min_mask_region_area`` and
        rounding.

        Raises:
            InputError: the mask was given, not predicted.
        """
        if self.logits is None:
            raise InputError(f"the mask of {self.text!r} was given; it has no probabilities")
        probabilities: NDArray[np.float32] = self.logits.to_picture()[0].float().sigmoid_().numpy()
        return probabilities

    @property
    def area(self) -> int:
        """Pixels in the mask."""
        from pycocotools import mask as coco

        return int(coco.area(self.rle))

    def polygons(self) -> list[Polygon]:
        """Return the mask's connected parts as rings along the edges of its pixels.

        The pixel in row y and column x is the square from (x, y) to (x + 1, y + 1); pixels that
        touch at a corner alone belong to different parts. An empty mask has none.
        """
        return mask_to_polygons(decode_rle_in_box(self.rle, self.box), *self.box[:2])

    def to_dict(self) -> PhraseJson:
        """Return the phrase as JSON content, without the tokens."""
        return {
            "text": self.text,
            "start": self.start,
            "end": self.end,
            "score": round(self.score, 4),
            "box": list(self.box),
            "area": self.area,
            "mask": self.rle,
            "picture": self.picture,
        }
