"""Metrics of masks, boxes and selected phrases, as in papers (paper section 4).

Letters: ``n`` masks or boxes, ``H W`` picture size.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flmm.errors import InputError


@dataclass(frozen=True)
class Overlap:
    """The pixel counts of predicted and true masks, which all mask metrics are computed from."""

    intersection: Tensor
    """(n,) float64, pixels."""
    union: Tensor
    """(n,) float64, pixels."""

    @property
    def iou(self) -> Tensor:
        """(n,) float64 in 0..1; 1 where both masks are empty, since they agree."""
        iou = self.intersection / self.union.clamp_min(1)
        return torch.where(self.union == 0, 1.0, iou)

    @staticmethod
    def concatenate(parts: Sequence["Overlap"]) -> "Overlap":
        """Join the parts' masks, in order; the pictures' sizes may differ."""
        return Overlap(
            torch.cat([part.intersection for part in parts]),
            torch.cat([part.union for part in parts]),
        )

    def __getitem__(self, index: Tensor) -> "Overlap":
        """Return the masks that an (n,) bool or an index tensor selects."""
        return Overlap(self.intersection[index], self.union[index])


@dataclass(frozen=True)
class ReferringScores:
    """Scores of referring segmentation (RefCOCO, RefCOCO+, RefCOCOg), in percent."""

    cumulative_iou: float
    mean_iou: float
    precision_at_0_5: float
    precision_at_0_6: float
    precision_at_0_7: float
    precision_at_0_8: float
    precision_at_0_9: float


@dataclass(frozen=True)
class ReasoningScores:
    """Scores of reasoning segmentation (ReasonSeg; Lai et al. 2024, section 3.3), in percent."""

    generalised_iou: float
    """gIoU: the mean IoU of all pairs of a picture and a text."""
    cumulative_iou: float
    """cIoU."""


@dataclass(frozen=True)
class NarrativeScores:
    """Scores of panoptic narrative grounding, in 0..1; NaN for a kind without a phrase."""

    all: float
    things: float
    stuff: float
    singulars: float
    plurals: float
    accuracy_at_0_5: float


@dataclass(frozen=True)
class SpanCounts:
    """Counts of the phrases that a selector chose in texts, and of the true ones."""

    hits: int
    """Chosen phrases that are true ones, with exactly the same start and end."""
    chosen: int
    wanted: int
    """True phrases."""

    @property
    def precision(self) -> float:
        """Share of the chosen phrases that are true ones, in 0..1; NaN when none was chosen."""
        return self.hits / self.chosen if self.chosen else math.nan

    @property
    def recall(self) -> float:
        """Share of the true phrases that were chosen, in 0..1; NaN when there is none."""
        return self.hits / self.wanted if self.wanted else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, in 0..1; NaN without chosen and true phrases."""
        total = self.chosen + self.wanted
        return 2 * self.hits / total if total else math.nan

    def __add__(self, other: "SpanCounts") -> "SpanCounts":
        return SpanCounts(
            self.hits + other.hits, self.chosen + other.chosen, self.wanted + other.wanted
        )


def count_spans(
    chosen: Collection[tuple[int, int]], wanted: Collection[tuple[int, int]]
) -> SpanCounts:
    """Compare chosen with true phrases of a text, each a (start, end); repeated ones count once."""
    chosen, true = set(chosen), set(wanted)
    return SpanCounts(len(chosen & true), len(chosen), len(true))


def compute_overlap(predicted: Tensor, target: Tensor, ignored: Tensor | None = None) -> Overlap:
    """Count the pixels of the intersections and unions of (n, H, W) bool masks.

    Args:
        predicted: the masks.
        target: the true masks.
        ignored: pixels that are not counted, as in ReasonSeg.

    Raises:
        InputError: the shapes differ or the masks are not bool.
    """
    if ignored is not None:
        predicted, target = predicted & ~ignored, target & ~ignored
    if predicted.shape != target.shape or predicted.ndim != 3:
        raise InputError(
            f"predicted masks are {tuple(predicted.shape)} and true ones {tuple(target.shape)}; "
            "give both as (n, H, W)"
        )
    if predicted.dtype != torch.bool or target.dtype != torch.bool:
        raise InputError(
            f"masks are {predicted.dtype} and {target.dtype}; give torch.bool, as in logits > 0"
        )
    return Overlap(
        (predicted & target).sum(dim=(1, 2)).double(), (predicted | target).sum(dim=(1, 2)).double()
    )


def mean_iou(overlap: Overlap) -> float:
    """Return the mean of the masks' IoU, in 0..1; NaN without masks."""
    return overlap.iou.mean().item()


def cumulative_iou(overlap: Overlap) -> float:
    """Return sum of intersections over sum of unions (cIoU), in 0..1: large masks weigh more."""
    return (overlap.intersection.sum() / overlap.union.sum()).item()


def precision_at(overlap: Overlap, threshold: float) -> float:
    """Return the share of the masks whose IoU is above ``threshold``, in 0..1."""
    return (overlap.iou > threshold).double().mean().item()


def average_recall(overlap: Overlap) -> float:
    r"""Return the area under recall over the IoU threshold (Gonzalez et al. 2021), in 0..1.

    .. math:: \int_0^1 \frac{1}{n} \left|\{i: \mathrm{IoU}_i > t\}\right| dt

    Each mask counts for every threshold below its IoU, so the area is exactly the mean IoU; a sum
    over a list of thresholds is off by up to half a step.
    """
    return mean_iou(overlap)


def referring_scores(overlap: Overlap) -> ReferringScores:
    """Return the scores of referring segmentation, in percent."""
    return ReferringScores(
        cumulative_iou=100 * cumulative_iou(overlap),
        mean_iou=100 * mean_iou(overlap),
        precision_at_0_5=100 * precision_at(overlap, 0.5),
        precision_at_0_6=100 * precision_at(overlap, 0.6),
        precision_at_0_7=100 * precision_at(overlap, 0.7),
        precision_at_0_8=100 * precision_at(overlap, 0.8),
        precision_at_0_9=100 * precision_at(overlap, 0.9),
    )


def reasoning_scores(overlap: Overlap) -> ReasoningScores:
    """Return the scores of reasoning segmentation; ``overlap`` is without ignored pixels."""
    return ReasoningScores(100 * mean_iou(overlap), 100 * cumulative_iou(overlap))


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU of boxes, pair by pair.

    Args:
        first: (n, 4) (x0, y0, x1, y1), x1 and y1 exclusive.
        second: the same.

    Returns:
        (n,) float64 in 0..1; 0 where both boxes are empty.
    """
    low = torch.maximum(first[:, :2], second[:, :2])
    high = torch.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clamp_min(0).double().prod(dim=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).double().prod(dim=1) for boxes in (first, second)]
    return shared / (areas[0] + areas[1] - shared).clamp_min(1)


def box_accuracy(iou: Tensor) -> float:
    """Return referring comprehension's accuracy@0.5: the share of (n,) box IoUs above 0.5."""
    return (iou > 0.5).double().mean().item()


def narrative_scores(
    overlap: Overlap, is_thing: Tensor, is_plural: Tensor, is_stuff: Tensor | None = None
) -> NarrativeScores:
    """Return PNG's average recall of all phrases and of each kind, and the share above IoU 0.5.

    Args:
        overlap: of n phrases.
        is_thing: (n,) bool.
        is_plural: (n,) bool; all others are singular.
        is_stuff: (n,) bool; None: all that are not things.

    Raises:
        InputError: flags are not (n,) bool.
    """
    count = len(overlap.intersection)
    is_stuff = ~is_thing if is_stuff is None else is_stuff
    for name, flags in (
        ("is_thing", is_thing), ("is_plural", is_plural), ("is_stuff", is_stuff)
    ):  # fmt: skip
        if flags.shape != (count,) or flags.dtype != torch.bool:
            raise InputError(
                f"{name} is {tuple(flags.shape)} {flags.dtype}; give a bool for each of the "
                f"{count} phrases"
            )
    return NarrativeScores(
        all=average_recall(overlap),
        things=average_recall(overlap[is_thing]),
        stuff=average_recall(overlap[is_stuff]),
        singulars=average_recall(overlap[~is_plural]),
        plurals=average_recall(overlap[is_plural]),
        accuracy_at_0_5=precision_at(overlap, 0.5),
    )
