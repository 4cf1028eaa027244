"""The options of masks that all methods of ``Grounder``, all commands and all routes have."""

from dataclasses import dataclass
from typing import TypedDict

from flmm.errors import InputError


class MaskKeywords(TypedDict, total=False):
    """The keyword arguments of ``MaskOptions``, for ``Unpack``."""

    refine: bool
    mask_threshold: float
    min_score: float
    min_mask_region_area: int


@dataclass(frozen=True)
class MaskOptions:
    """How masks are made from logits, and which phrases are kept.

    Raises:
        InputError: a value is outside its range.
    """

    refine: bool = True
    """False leaves out SAM (faster, coarser)."""
    mask_threshold: float = 0.5
    """Between 0 and 1: a pixel is in the mask if its probability is above this."""
    min_score: float = 0.0
    """In 0..1: phrases with a lower score are left out; 0 keeps even those with an empty mask."""
    min_mask_region_area: int = 0
    """Regions of the mask, and holes in it, of fewer pixels of the picture are removed, as by SAM's
    automatic mask generator; 0 removes none. (``masks.small_regions.remove_small_regions``.)"""

    def __post_init__(self) -> None:
        if not 0 < self.mask_threshold < 1:
            raise InputError(
                f"mask_threshold is {self.mask_threshold}; give one between 0 and 1, such as 0.5"
            )
        if not 0 <= self.min_score <= 1:
            raise InputError(f"min_score is {self.min_score}; give one in 0..1")
        if self.min_mask_region_area < 0:
            raise InputError(
                f"min_mask_region_area is {self.min_mask_region_area}; give 0 or more pixels"
            )

    def keeps(self, score: float) -> bool:
        """Return whether a phrase of that score is kept."""
        return score >= self.min_score


DEFAULT_MASK_OPTIONS = MaskOptions()
