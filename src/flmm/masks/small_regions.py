"""Removal of specks and small holes from masks.

Letters: ``H W`` picture size.
"""

import numpy as np
from numpy.typing import NDArray

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=np.bool_)
_ROWS_AT_ONCE = 256


def remove_small_regions(mask: NDArray[np.bool_], min_area: int) -> NDArray[np.bool_]:
    """Fill a mask's small holes, then remove its small regions.

    As ``min_mask_region_area`` of SAM's automatic mask generator does: pixels that touch at a
    corner are connected; background that touches the border counts as a hole too; and where all
    regions are small, the largest is kept.

    Args:
        mask: (H, W) bool.
        min_area: pixels; smaller holes and regions are removed.

    Returns:
        (H, W) bool; the mask itself where it is empty or ``min_area`` is below 2.
    """
    if min_area < 2 or not mask.any():
        return mask
    holes, _ = _split_by_area(~mask, min_area)
    filled = mask | holes
    small, largest = _split_by_area(filled, min_area)
    remaining = filled & ~small
    return remaining if remaining.any() else largest


def _split_by_area(
    region: NDArray[np.bool_], min_area: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the union of the connected parts below an area, and the largest part."""
    from scipy.ndimage import label

    labels, count = label(region, _EIGHT_NEIGHBOURS)
    areas = np.zeros(count + 1, dtype=np.int64)
    # In bands of rows, since bincount copies its labels as 64-bit integers.
    for first in range(0, len(labels), _ROWS_AT_ONCE):
        band = labels[first : first + _ROWS_AT_ONCE]
        areas += np.bincount(band.ravel(), minlength=count + 1)
    areas[0] = 0
    is_small = areas < min_area
    is_small[0] = False
    return is_small[labels], (labels == areas.argmax()) & region
