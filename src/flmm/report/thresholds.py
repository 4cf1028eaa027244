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

from flmm.atomic_write import whole_file
from flmm.evaluate.metrics import Overlap
from flmm.pictures.geometry import maps_on_picture
from flmm.types import ImageGeometry, Size

LEVELS = tuple(step / 20 for step in range(1, 20))
"""Of maps that are scaled to 0..1."""
_LONGEST = 192


def frame_of(picture: Size) -> Size:
    """The frame's size: the picture's, but at most ``_LONGEST`` pixels long."""
    scale = min(1.0, _LONGEST / max(picture))
    height, width = (max(round(length * scale), 1) for length in picture)
    return height, width


def on_frame(masks: Tensor, frame: Size) -> Tensor:
    """(P, H, W) bool to (P, a, b) bool: where a mask covers at least half."""
    shares = functional.interpolate(masks[:, None].float(), frame, mode="area")[:, 0]
    return shares >= 0.5


def peaked(maps: Tensor) -> Tensor:
    """(..., a, b), not negative, scaled to a maximum of 1; a map of zeros stays one."""
    return maps / maps.amax((-2, -1), keepdim=True).clamp_min(1e-30)


def attention_candidates(
    attention: Tensor, heads: int, geometry: ImageGeometry, frame: Size
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
    single = peaked(maps_on_picture(attention, geometry, frame))
    layers = peaked(single.reshape(-1, heads, *frame).mean(1))
    return torch.cat([peaked(single.mean(0, keepdim=True)), layers, single])


def level_overlaps(maps: Tensor, truth: Tensor, known: Tensor) -> Overlap:
    """How each map, cut at each level, overlaps a mask.

    Args:
        maps: (K, a, b) in 0..1; the mask at a level is where they are above it.
        truth: (a, b) bool.
        known: (a, b) bool; the rest counts in neither mask.

    Returns:
        (K, L) intersections and unions.
    """
    count, levels = len(maps), len(LEVELS)
    values, inside = maps[:, known], truth[known]
    # How many levels each value is above; then all cuts are sums over a histogram's upper end.
    passed = torch.bucketize(values, torch.tensor(LEVELS, dtype=values.dtype))
    places = passed + torch.arange(count)[:, None] * (levels + 1)

    def above(chosen: Tensor) -> Tensor:
        histogram = torch.bincount(chosen.flatten(), minlength=count * (levels + 1))
        return histogram.reshape(count, -1).flip(1).cumsum(1).flip(1)[:, 1:].double()

    covered, shared = above(places), above(places[:, inside])
    return Overlap(shared, covered + inside.sum() - shared)


@dataclass(frozen=True)
class ChosenLevels:
    """The level that suits each map best, by mean IoU over the phrases that it was chosen on."""

    level: Tensor
    """(K,) in 0..1."""
    score: Tensor
    """(K,) mean IoU at that level, in 0..1."""

    def save(self, file: Path) -> None:
        """Writes the file, whole or not at all."""
        with whole_file(file) as place:
            save_file({"level": self.level, "score": self.score}, place)

    @staticmethod
    def load(file: Path) -> "ChosenLevels | None":
        """What is in a file; None where there is none, or a damaged one."""
        try:
            found = load_file(file)
            return ChosenLevels(found["level"], found["score"])
        except (OSError, SafetensorError, KeyError):
            return None

    def best(self, among: range) -> int:
        """The number of the best map among some."""
        return among[int(self.score[among.start : among.stop].argmax())]


@dataclass(frozen=True)
class BestHead:
    """The head whose map alone shows most."""

    number: int
    """Its map's, among ``attention_candidates``."""
    layer: int
    head: int


def best_head(levels: ChosenLevels, heads: int) -> BestHead:
    """Of ``attention_candidates`` of a model with so many heads a layer."""
    count = len(levels.level)
    first = 1 + (count - 1) // (1 + heads)
    number = levels.best(range(first, count))
    return BestHead(number, *divmod(number - first, heads))


@dataclass
class LevelChoice:
    """Adds up phrases, then chooses."""

    total: Tensor | None = None
    """(K, L): sums of IoU."""
    phrases: int = 0

    def add(self, overlap: Overlap) -> None:
        """One phrase's ``level_overlaps``."""
        self.total = overlap.iou if self.total is None else self.total + overlap.iou
        self.phrases += 1

    def choose(self) -> ChosenLevels | None:
        """None without a phrase."""
        if self.total is None:
            return None
        score, place = (self.total / self.phrases).max(1)
        return ChosenLevels(torch.tensor(LEVELS)[place], score)
