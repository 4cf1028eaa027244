"""Run lengths along the rows of a picture, as CVAT and Label Studio count them.

Letters: ``H W`` picture size, ``h w`` box size.
"""

import numpy as np
from numpy.typing import NDArray

from flmm.types import Size


def count_row_runs(
    part: NDArray[np.bool_], size: Size, left: int = 0, top: int = 0
) -> NDArray[np.int64]:
    """Return the lengths of the runs along the rows, background first (0 where there is none).

    Args:
        part: (h, w) bool: a mask inside its box.
        size: (H, W) of the whole, outside of whose box there is background.
        left, top: of the box.
    """
    height, width = part.shape
    is_change = np.empty((height, width + 1), dtype=np.bool_)
    is_change[:, 0], is_change[:, -1] = part[:, 0], part[:, -1]
    np.not_equal(part[:, 1:], part[:, :-1], out=is_change[:, 1:-1])
    rows, columns = np.divmod(np.flatnonzero(is_change), width + 1)
    changes = (rows + top) * size[1] + columns + left
    # A run that goes on in the next row ends and begins at the same place.
    goes_on = np.flatnonzero(changes[1:] == changes[:-1])
    changes = np.delete(changes, [*goes_on, *(goes_on + 1)])
    counts = np.diff(changes, prepend=0, append=size[0] * size[1])
    return counts[:-1] if counts[-1] == 0 else counts
