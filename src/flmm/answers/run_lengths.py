"""Masks as COCO's compressed run lengths: they are kept so, and become arrays on demand.

The runs go down one column after the other, background first. pycocotools copies whole masks from
rows to columns and back, which takes 0.6 s for 24 megapixels; here only the mask's box is touched.

Letters: ``H W`` picture size, ``h w`` box size.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

from flmm.answers.json_types import CocoRLE
from flmm.types import Box

_FIRST_CHARACTER = ord("0")
_BITS = 5
"""Of a count in each character, the lowest first; the next bit says that more follow."""


def encode_rle(mask: NDArray[np.bool_]) -> CocoRLE:
    """Return an (H, W) bool mask as COCO's compressed run lengths."""
    from pycocotools import mask as coco

    height, width = mask.shape
    changes = np.empty((height, width), dtype=np.bool_)
    np.not_equal(mask[1:], mask[:-1], out=changes[1:])
    # A column's first pixel follows the last one of the column before it.
    changes[0] = mask[0]
    changes[0, 1:] ^= mask[-1, :-1]
    rows, columns = np.divmod(np.flatnonzero(changes), width)
    counts = np.diff(np.sort(columns * height + rows), prepend=0, append=height * width)
    size = [height, width]
    encoded = coco.frPyObjects({"size": size, "counts": counts.tolist()}, height, width)
    return {"size": size, "counts": encoded["counts"].decode("ascii")}


def decode_rle(rle: CocoRLE, box: Box) -> NDArray[np.bool_]:
    """Return the (H, W) bool mask of compressed run lengths.

    Args:
        rle: the mask.
        box: (x0, y0, x1, y1) with all of its pixels inside; x1 and y1 exclusive.
    """
    height, width = rle["size"]
    x0, y0, x1, y1 = box
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[y0:y1, x0:x1] = decode_rle_in_box(rle, box)
    return mask


def decode_rle_in_box(rle: CocoRLE, box: Box) -> NDArray[np.bool_]:
    """Return the (h, w) bool part of a mask in a box, as for ``decode_rle``."""
    height, _ = rle["size"]
    x0, y0, x1, y1 = box
    part = np.zeros((y1 - y0, x1 - x0), dtype=np.bool_)
    if not part.size:
        return part
    changes = np.cumsum(_read_counts(rle["counts"]))[:-1]
    columns, rows = np.divmod(changes, height)
    inside = (rows > y0) & (rows < y1) & (columns < x1)
    part[rows[inside] - y0, columns[inside] - x0] = True
    tops = np.arange(x0, x1) * height + y0
    part[0] = np.searchsorted(changes, tops, side="right") % 2
    # Row by row, which numpy does many pixels at a time, unlike ``accumulate``.
    for above, row in itertools.pairwise(part):
        row ^= above
    return part


def _read_counts(counts: str) -> NDArray[np.int64]:
    """Return the lengths of the runs."""
    codes = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64)
    codes -= _FIRST_CHARACTER
    is_last = codes < 1 << _BITS
    ends = np.flatnonzero(is_last) + 1
    starts = np.concatenate([[0], ends[:-1]])
    lengths = ends - starts
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes % (1 << _BITS)) << (_BITS * places), starts)
    # The highest bit of a count is its sign.
    negative = codes[ends - 1] >> (_BITS - 1) & 1
    values -= negative << (_BITS * lengths)
    # From the fourth on, a count is stored as what it adds to the last but one.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
