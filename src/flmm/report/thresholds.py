"""Masks without training: a map above a threshold, both chosen on other pictures.

Letters: ``K`` maps, ``L`` thresholds, ``M`` layers (times views), ``N`` heads, ``h w`` image-token
grid, ``a b`` the size at which maps and masks are compared.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from flmm.atomic_write import atomic_write
from flmm.evaluate.metrics import Overlap
from flmm.pictures.geometry import resize_maps_to_picture
from flmm.types import ImageGeometry, Size

THRESHOLDS = tuple(step / 20 for step in range(1, 20))
"""For maps in 0..1."""
_MAX_SIDE = 192


def comparison_size(picture_size: Size) -> Size:
    """Return (a, b): the picture's size, scaled down to at most ``_MAX_SIDE`` pixels a side."""
    scale = min(1.0, _MAX_SIDE / max(picture_size))
    height, width = (max(round(length * scale), 1) for length in picture_size)
    return height, width


def resize_masks(masks: Tensor, size: Size) -> Tensor:
    """Resize (P, H, W) bool to (P, a, b) bool: true where a mask covers at least half."""
    shares = functional.interpolate(masks[:, None].float(), size, mode="area")[:, 0]
    return shares >= 0.5


def normalise_by_max(maps: Tensor) -> Tensor:
    """Scale maps (..., a, b), not negative, to a maximum of 1; zeros stay zeros."""
    return maps / maps.amax((-2, -1), keepdim=True).clamp_min(1e-30)


def candidate_maps(
    attention: Tensor, num_heads: int, geometry: ImageGeometry, size: Size
) -> Tensor:
    """Return one phrase's attention as maps to choose from.

    Args:
        attention: (M·N, h, w).
        num_heads: N.
        geometry: of the picture.
        size: (a, b).

    Returns:
        (1 + M + M·N, a, b) in 0..1: the mean of all, each layer's mean, each head's map. Each
        head's map is scaled to a maximum of 1 before means are taken.
    """
    single = normalise_by_max(resize_maps_to_picture(attention, geometry, size))
    layers = normalise_by_max(single.reshape(-1, num_heads, *size).mean(1))
    return torch.cat([normalise_by_max(single.mean(0, keepdim=True)), layers, single])


def threshold_overlaps(maps: Tensor, truth: Tensor, valid: Tensor) -> Overlap:
    """Compute each map's overlap with a mask, at each threshold.

    Args:
        maps: (K, a, b) in 0..1; a mask is where they are above the threshold.
        truth: (a, b) bool.
        valid: (a, b) bool; other pixels are in neither mask.

    Returns:
        (K, L) intersections and unions.
    """
    num_maps, num_bins = len(maps), len(THRESHOLDS) + 1
    values, inside = maps[:, valid], truth[valid]
    # A value's bin is the number of thresholds below it; the k-th mask has the bins above k.
    bins = torch.bucketize(values, torch.tensor(THRESHOLDS, dtype=values.dtype))
    bins += torch.arange(num_maps)[:, None] * num_bins

    def count_above(bins: Tensor) -> Tensor:
        histogram = torch.bincount(bins.flatten(), minlength=num_maps * num_bins)
        return histogram.reshape(num_maps, -1).flip(1).cumsum(1).flip(1)[:, 1:].double()

    areas, intersection = count_above(bins), count_above(bins[:, inside])
    return Overlap(intersection, areas + inside.sum() - intersection)


@dataclass(frozen=True)
class MapThresholds:
    """Each map's best threshold, by mean IoU over the phrases it was chosen on."""

    thresholds: Tensor
    """(K,) in 0..1."""
    scores: Tensor
    """(K,) mean IoU at that threshold, in 0..1."""

    def save(self, file: Path) -> None:
        """Write the file, whole or not at all."""
        with atomic_write(file) as path:
            save_file({"level": self.thresholds, "score": self.scores}, path)

    @staticmethod
    def load(file: Path) -> "MapThresholds | None":
        """Load a file; None if it is missing or damaged."""
        try:
            tensors = load_file(file)
            return MapThresholds(tensors["level"], tensors["score"])
        except (OSError, SafetensorError, KeyError):
            return None

    def best_index(self, indices: range) -> int:
        """Return the index of the best map among ``indices``."""
        return indices[int(self.scores[indices.start : indices.stop].argmax())]


@dataclass(frozen=True)
class BestHead:
    """The head whose map alone gives the best masks."""

    map_index: int
    """Of its map among ``candidate_maps``."""
    layer: int
    head: int


def find_best_head(thresholds: MapThresholds, num_heads: int) -> BestHead:
    """Return the best head among ``candidate_maps`` of a model with ``num_heads`` a layer."""
    count = len(thresholds.thresholds)
    first = 1 + (count - 1) // (1 + num_heads)
    index = thresholds.best_index(range(first, count))
    return BestHead(index, *divmod(index - first, num_heads))


@dataclass
class ThresholdSearch:
    """Sums of IoU over phrases, to find each map's best threshold."""

    iou_sums: Tensor | None = None
    """(K, L) sums of IoU; None before the first phrase."""
    num_phrases: int = 0

    def add(self, overlap: Overlap) -> None:
        """Add one phrase's ``threshold_overlaps``."""
        self.iou_sums = overlap.iou if self.iou_sums is None else self.iou_sums + overlap.iou
        self.num_phrases += 1

    def best_thresholds(self) -> MapThresholds | None:
        """Return the best thresholds; None without a phrase."""
        if self.iou_sums is None:
            return None
        scores, indices = (self.iou_sums / self.num_phrases).max(1)
        return MapThresholds(torch.tensor(THRESHOLDS)[indices], scores)
