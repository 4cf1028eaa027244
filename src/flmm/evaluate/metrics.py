"""How good masks, boxes and chosen words are: the scores that papers print (paper section 4).

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
    """How predicted masks overlap true ones; all that the metrics need, whatever the sizes."""

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
        """One overlap of all the parts' masks, in order; the pictures' sizes may differ."""
        return Overlap(
            torch.cat([part.intersection for part in parts]),
            torch.cat([part.union for part in parts]),
        )

    def __getitem__(self, chosen: Tensor) -> "Overlap":
        """The overlaps that an (n,) bool or index tensor picks."""
        return Overlap(self.intersection[chosen], self.union[chosen])


@dataclass(frozen=True)
class ReferringScores:
    """Referring segmentation (RefCOCO, RefCOCO+, RefCOCOg), all in percent as papers print them."""

    cumulative_iou: float
    mean_iou: float
    precision_at_0_5: float
    precision_at_0_6: float
    precision_at_0_7: float
    precision_at_0_8: float
    precision_at_0_9: float


@dataclass(frozen=True)
class ReasoningScores:
    """Reasoning segmentation (ReasonSeg; Lai et al. 2024, section 3.3), in percent."""

    generalised_iou: float
    """gIoU: the mean of the IoU of every picture with one text."""
    cumulative_iou: float
    """cIoU."""


@dataclass(frozen=True)
class NarrativeScores:
    """Panoptic narrative grounding, all fractions; a kind that no phrase has scores NaN."""

    all: float
    things: float
    stuff: float
    singulars: float
    plurals: float
    accuracy_at_0_5: float


@dataclass(frozen=True)
class SpanCounts:
    """Phrases that were chosen in texts, beside those that should have been."""

    hits: int
    """Chosen rightly, with exactly the same beginning and end."""
    chosen: int
    wanted: int

    @property
    def precision(self) -> float:
        """Share of the chosen ones that are right, in 0..1; NaN when none was chosen."""
        return self.hits / self.chosen if self.chosen else math.nan

    @property
    def recall(self) -> float:
        """Share of the wanted ones that were chosen, in 0..1; NaN when none was wanted."""
        return self.hits / self.wanted if self.wanted else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, in 0..1; NaN when both lack their phrases."""
        both = self.chosen + self.wanted
        return 2 * self.hits / both if both else math.nan

    def __add__(self, other: "SpanCounts") -> "SpanCounts":
        return SpanCounts(
            self.hits + other.hits, self.chosen + other.chosen, self.wanted + other.wanted
        )


def count_spans(
    chosen: Collection[tuple[int, int]], wanted: Collection[tuple[int, int]]
) -> SpanCounts:
    """Compares the (start, end) of a text's phrases; one that is listed again counts once."""
    found, true = set(chosen), set(wanted)
    return SpanCounts(len(found & true), len(found), len(true))


def compute_overlap(predicted: Tensor, target: Tensor, ignored: Tensor | None = None) -> Overlap:
    """Pixels that (n, H, W) bool masks share and cover together.

    Args:
        predicted: the masks.
        target: the true masks.
        ignored: pixels that count in neither, as ReasonSeg marks them.

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
    """Mean of the masks' IoU, in 0..1; NaN without masks."""
    return overlap.iou.mean().item()


def cumulative_iou(overlap: Overlap) -> float:
    """Sum of intersections over sum of unions (cIoU), in 0..1: large masks weigh more."""
    return (overlap.intersection.sum() / overlap.union.sum()).item()


def precision_at(overlap: Overlap, threshold: float) -> float:
    """Share of the masks whose IoU is above ``threshold``, in 0..1."""
    return (overlap.iou > threshold).double().mean().item()


def average_recall(overlap: Overlap) -> float:
    r"""Area under the curve of recall over the IoU threshold (Gonzalez et al. 2021), in 0..1.

    .. math:: \int_0^1 \frac{1}{n} \left|\{i: \mathrm{IoU}_i > t\}\right| dt

    Each mask counts for every threshold below its IoU, so the area is the mean IoU: exactly, where
    summing over a list of thresholds is off by up to half a step.
    """
    return mean_iou(overlap)


def referring_scores(overlap: Overlap) -> ReferringScores:
    """Scores of referring segmentation, in percent."""
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
    """Scores of reasoning segmentation, in percent; the overlap leaves out what is ignored."""
    return ReasoningScores(100 * mean_iou(overlap), 100 * cumulative_iou(overlap))


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of boxes, pair by pair.

    Args:
        first: (n, 4) (x0, y0, x1, y1), x1 and y1 exclusive.
        second: the same.

    Returns:
        (n,) float64 in 0..1; 0 where both boxes are empty, since nothing was found.
    """
    low = torch.maximum(first[:, :2], second[:, :2])
    high = torch.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clamp_min(0).double().prod(dim=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).double().prod(dim=1) for boxes in (first, second)]
    return shared / (areas[0] + areas[1] - shared).clamp_min(1)


def box_accuracy(iou: Tensor) -> float:
    """Referring comprehension's accuracy@0.5: share of (n,) box IoUs above 0.5, in 0..1."""
    return (iou > 0.5).double().mean().item()


def narrative_scores(
    overlap: Overlap, is_thing: Tensor, is_plural: Tensor, is_stuff: Tensor | None = None
) -> NarrativeScores:
    """PNG's average recall over all phrases and over each kind, and the share above IoU 0.5.

    Args:
        overlap: of n phrases.
        is_thing: (n,) bool.
        is_plural: (n,) bool; the rest is singular.
        is_stuff: (n,) bool; None for all that is no thing.

    Raises:
        InputError: a flag for other than n phrases, or flags that are not bool.
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
