"""Candidate masks of a phrase: the masks that SAM gives for points and boxes of contrast maps.

Letters: ``P`` phrases, ``K`` candidates a phrase, ``h w`` image-token grid, ``a b`` frame of the
segmenter's low-resolution logits that shows the picture.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flmm.pictures.geometry import sample_on_picture
from flmm.segmenters.base import Segmenter
from flmm.segmenters.prompts import PictureEmbeddings, SegmenterMasks, SegmenterPrompts
from flmm.training_free.contrast import ContrastMaps
from flmm.types import ImageGeometry, Size

_SIGMA = 0.7
"""Of the Gaussian blur before a maximum is looked for, in cells of the grid."""
_BOX_LEVELS = (0.25, 0.5)
"""Between a map's median (0) and maximum (1): the regions above them are boxed."""
_NUM_POINTS = 3
_POINT_LEVEL = 0.4
"""Further points are where a map is above this level."""
_POINT_DISTANCE = 1 / 6
"""Between two points of one prompt, at least this share of the frame's longer side."""

_Map = NDArray[np.float32]
_Point = tuple[int, int]
"""(row, column)."""


def propose_candidates(
    maps: ContrastMaps,
    geometry: ImageGeometry,
    segmenter: Segmenter,
    embeddings: PictureEmbeddings,
) -> SegmenterMasks:
    """Return three masks for each of five prompts a phrase.

    The prompts: the maximum of either map, the boxes around the log map's region at its maximum at
    two levels, and three points far from each other where the log map is high (for regions such as
    sky, which one point may leave incomplete).

    Args:
        maps: of P phrases of one picture.
        geometry: of the maps.
        segmenter: the SAM.
        embeddings: the segmenter's, of that picture alone.
    """
    prompts = _build_prompts(maps, geometry, low_resolution_frame(segmenter, geometry.picture))
    decoded = [
        segmenter.decode(embeddings, geometry.picture, each, multimask=True) for each in prompts
    ]
    return SegmenterMasks(
        torch.cat([masks.logits for masks in decoded], dim=1),
        torch.cat([masks.scores for masks in decoded], dim=1),
    )


def low_resolution_frame(segmenter: Segmenter, picture: Size) -> Size:
    """Return (a, b): the part of the low-resolution logits that shows the picture."""
    side = segmenter.low_resolution_side
    height, width = segmenter.cut_to_picture(torch.empty(side, side), picture).shape
    return height, width


def scale_to_levels(maps: Tensor) -> Tensor:
    """Scale each of (P, a, b) maps so that its median is 0 and its maximum 1."""
    median = maps.flatten(1).median(dim=1).values[:, None, None]
    spread = maps.amax(dim=(1, 2), keepdim=True) - median
    return (maps - median) / spread.clamp(min=1e-12)


def _build_prompts(
    maps: ContrastMaps, geometry: ImageGeometry, frame: Size
) -> list[SegmenterPrompts]:
    log_peaks, rectified_peaks = (
        _find_peaks(each, geometry, frame) for each in (maps.log, maps.rectified)
    )
    levels = scale_to_levels(sample_on_picture(maps.log, geometry, frame)).cpu().numpy()
    to_picture = torch.tensor([geometry.picture[1] / frame[1], geometry.picture[0] / frame[0]])

    def at_points(points: Sequence[Sequence[_Point]]) -> SegmenterPrompts:
        # Pixel centres, x before y.
        return SegmenterPrompts.at_points((torch.tensor(points).flip(-1) + 0.5) * to_picture)

    def in_boxes(level: float) -> SegmenterPrompts:
        boxes = [
            _box_region(each, peak, level) for each, peak in zip(levels, log_peaks, strict=True)
        ]
        return SegmenterPrompts(boxes=torch.tensor(boxes) * to_picture.repeat(2))

    spread = [_spread_points(each, peak) for each, peak in zip(levels, log_peaks, strict=True)]
    return [
        at_points([[peak] for peak in log_peaks]),
        at_points([[peak] for peak in rectified_peaks]),
        *(in_boxes(level) for level in _BOX_LEVELS),
        at_points(spread),
    ]


def _find_peaks(maps: Tensor, geometry: ImageGeometry, frame: Size) -> list[_Point]:
    """Return each (h, w) map's maximum in the frame, after a blur."""
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(maps.cpu().numpy(), (0, _SIGMA, _SIGMA), mode="nearest")
    resized = sample_on_picture(torch.from_numpy(blurred), geometry, frame)
    return [
        (int(index) // frame[1], int(index) % frame[1]) for index in resized.flatten(1).argmax(1)
    ]


def _box_region(levels: _Map, peak: _Point, level: float) -> tuple[int, int, int, int]:
    """Return the box (x0, y0, x1, y1) of what is above a level and connected with the peak.

    The whole frame where nothing is, as in a map that is the same everywhere.
    """
    from scipy.ndimage import label

    labels, _ = label(levels > level, np.ones((3, 3)))
    # The blur can move a peak to below the level; then all regions count.
    region = labels == labels[peak] if labels[peak] else labels > 0
    rows, columns = np.nonzero(region if region.any() else np.ones_like(region))
    return (
        int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    )  # fmt: skip


def _spread_points(levels: _Map, peak: _Point) -> list[_Point]:
    """Return the peak and the next highest points far from it; the peak again where none is."""
    rows, columns = np.ogrid[: levels.shape[0], : levels.shape[1]]
    distance = (_POINT_DISTANCE * max(levels.shape)) ** 2
    remaining = levels.copy()
    points = [peak]
    while len(points) < _NUM_POINTS:
        row, column = points[-1]
        remaining[(rows - row) ** 2 + (columns - column) ** 2 < distance] = -np.inf
        next_point = divmod(int(remaining.argmax()), levels.shape[1])
        if remaining[next_point] <= _POINT_LEVEL:
            break
        points.append(next_point)
    return points + [peak] * (_NUM_POINTS - len(points))
