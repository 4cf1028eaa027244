"""Masks from maps without any training: a map is cut at a level, and both are chosen elsewhere.

Letters: ``K`` maps, ``L`` levels, ``M`` layers (times views), ``N`` heads, ``h w`` image-token
grid, ``a b`` the frame on which maps and masks are compared.
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
"""Of maps that are scaled to 0..1."""
_MAX_SIDE = 192


def comparison_size(picture_size: Size) -> Size:
    """The frame's size: the picture's, but at most ``_LONGEST`` pixels long."""
    scale = min(1.0, _MAX_SIDE / max(picture_size))
    height, width = (max(round(length * scale), 1) for length in picture_size)
    return height, width


def resize_masks(masks: Tensor, size: Size) -> Tensor:
    """(P, H, W) bool to (P, a, b) bool: where a mask covers at least half."""
    shares = functional.interpolate(masks[:, None].float(), size, mode="area")[:, 0]
    return shares >= 0.5


def normalise_by_max(maps: Tensor) -> Tensor:
    """(..., a, b), not negative, scaled to a maximum of 1; a map of zeros stays one."""
    return maps / maps.amax((-2, -1), keepdim=True).clamp_min(1e-30)


def candidate_maps(
    attention: Tensor, num_heads: int, geometry: ImageGeometry, size: Size
) -> Tensor:
    """One phrase's attention as maps to choose from.

    Args:
        attention: (M·N, h, w).
        heads: N.
        geometry: of the picture.
        frame: (a, b).

    Returns:
        (1 + M + M·N, a, b) in 0..1: the mean of all, each layer's mean, each head alone. In a mean,
        every head's map counts by its own most.
    """
    single = normalise_by_max(resize_maps_to_picture(attention, geometry, size))
    layers = normalise_by_max(single.reshape(-1, num_heads, *size).mean(1))
    return torch.cat([normalise_by_max(single.mean(0, keepdim=True)), layers, single])


def threshold_overlaps(maps: Tensor, truth: Tensor, valid: Tensor) -> Overlap:
    """How each map, cut at each level, overlaps a mask.

    Args:
        maps: (K, a, b) in 0..1; the mask at a level is where they are above it.
        truth: (a, b) bool.
        known: (a, b) bool; the rest counts in neither mask.

    Returns:
        (K, L) intersections and unions.
    """
    count, levels = len(maps), len(THRESHOLDS)
    values, inside = maps[:, valid], truth[valid]
    # How many levels each value is above; then all cuts are sums over a histogram's upper end.
    passed = torch.bucketize(values, torch.tensor(THRESHOLDS, dtype=values.dtype))
    places = passed + torch.arange(count)[:, None] * (levels + 1)

    def above(chosen: Tensor) -> Tensor:
        histogram = torch.bincount(chosen.flatten(), minlength=count * (levels + 1))
        return histogram.reshape(count, -1).flip(1).cumsum(1).flip(1)[:, 1:].double()

    covered, shared = above(places), above(places[:, inside])
    return Overlap(shared, covered + inside.sum() - shared)


@dataclass(frozen=True)
class MapThresholds:
    """The level that suits each map best, by mean IoU over the phrases that it was chosen on."""

    thresholds: Tensor
    """(K,) in 0..1."""
    scores: Tensor
    """(K,) mean IoU at that level, in 0..1."""

    def save(self, file: Path) -> None:
        """Writes the file, whole or not at all."""
        with atomic_write(file) as place:
            save_file({"level": self.thresholds, "score": self.scores}, place)

    @staticmethod
    def load(file: Path) -> "MapThresholds | None":
        """What is in a file; None where there is none, or a damaged one."""
        try:
            found = load_file(file)
            return MapThresholds(found["level"], found["score"])
        except (OSError, SafetensorError, KeyError):
            return None

    def best_index(self, indices: range) -> int:
        """The number of the best map among some."""
        return indices[int(self.scores[indices.start : indices.stop].argmax())]


@dataclass(frozen=True)
class BestHead:
    """The head whose map alone shows most."""

    map_index: int
    """Its map's, among ``attention_candidates``."""
    layer: int
    head: int


def find_best_head(thresholds: MapThresholds, num_heads: int) -> BestHead:
    """Of ``attention_candidates`` of a model with so many heads a layer."""
    count = len(thresholds.thresholds)
    first = 1 + (count - 1) // (1 + num_heads)
    number = thresholds.best_index(range(first, count))
    return BestHead(number, *divmod(number - first, num_heads))


@dataclass
class ThresholdSearch:
    """Adds up phrases, then chooses."""

    iou_sums: Tensor | None = None
    """(K, L): sums of IoU."""
    num_phrases: int = 0

    def add(self, overlap: Overlap) -> None:
        """One phrase's ``level_overlaps``."""
        self.iou_sums = overlap.iou if self.iou_sums is None else self.iou_sums + overlap.iou
        self.num_phrases += 1

    def best_thresholds(self) -> MapThresholds | None:
        """None without a phrase."""
        if self.iou_sums is None:
            return None
        score, place = (self.iou_sums / self.num_phrases).max(1)
        return MapThresholds(torch.tensor(THRESHOLDS)[place], score)
