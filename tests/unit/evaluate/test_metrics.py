"""Metrics of masks, beside simple implementations on sets of pixels."""

import math

import pytest
import torch
from torch import Tensor

from flmm.errors import InputError
from flmm.evaluate.metrics import (
    Overlap,
    average_recall,
    compute_overlap,
    cumulative_iou,
    mean_iou,
    narrative_scores,
    precision_at,
    referring_scores,
)


@pytest.fixture
def masks() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    target = torch.rand(20, 6, 7, generator=generator) > 0.5
    flipped = torch.rand(20, 6, 7, generator=generator) < torch.rand(20, 1, 1, generator=generator)
    return target ^ flipped, target


def pixels(mask: Tensor) -> set[int]:
    return {index for index, inside in enumerate(mask.flatten().tolist()) if inside}


def slow_ious(predicted: Tensor, target: Tensor) -> list[float]:
    pairs = [(pixels(a), pixels(b)) for a, b in zip(predicted, target, strict=True)]
    return [len(a & b) / len(a | b) for a, b in pairs]


def test_ious_match_sets_of_pixels(masks: tuple[Tensor, Tensor]) -> None:
    ious = slow_ious(*masks)
    overlap = compute_overlap(*masks)
    assert overlap.iou.tolist() == pytest.approx(ious)
    assert mean_iou(overlap) == pytest.approx(sum(ious) / len(ious))
    assert precision_at(overlap, 0.5) == sum(iou > 0.5 for iou in ious) / len(ious)


def test_cumulative_iou_weighs_by_size(masks: tuple[Tensor, Tensor]) -> None:
    pairs = [(pixels(a), pixels(b)) for a, b in zip(*masks, strict=True)]
    expected = sum(len(a & b) for a, b in pairs) / sum(len(a | b) for a, b in pairs)
    assert cumulative_iou(compute_overlap(*masks)) == pytest.approx(expected)


def test_average_recall_is_the_area_under_the_curve(masks: tuple[Tensor, Tensor]) -> None:
    ious = slow_ious(*masks)
    steps = 2000
    recalls = [sum(iou > step / steps for iou in ious) / len(ious) for step in range(steps)]
    assert average_recall(compute_overlap(*masks)) == pytest.approx(sum(recalls) / steps, abs=1e-3)


def test_referring_scores_are_in_percent(masks: tuple[Tensor, Tensor]) -> None:
    ious = slow_ious(*masks)
    scores = referring_scores(compute_overlap(*masks))
    assert scores.mean_iou == pytest.approx(100 * sum(ious) / len(ious))
    for threshold, score in (
        (0.5, scores.precision_at_0_5),
        (0.7, scores.precision_at_0_7),
        (0.9, scores.precision_at_0_9),
    ):
        assert score == pytest.approx(100 * sum(iou > threshold for iou in ious) / len(ious))


def test_narrative_scores_split_by_kind(masks: tuple[Tensor, Tensor]) -> None:
    ious = slow_ious(*masks)
    is_thing = torch.arange(20) < 12
    is_plural = torch.arange(20) % 3 == 0
    scores = narrative_scores(compute_overlap(*masks), is_thing, is_plural)
    plural = [iou for index, iou in enumerate(ious) if index % 3 == 0]
    singular = [iou for index, iou in enumerate(ious) if index % 3]
    assert scores.things == pytest.approx(sum(ious[:12]) / 12)
    assert scores.stuff == pytest.approx(sum(ious[12:]) / 8)
    assert scores.plurals == pytest.approx(sum(plural) / len(plural))
    assert scores.singulars == pytest.approx(sum(singular) / len(singular))


def test_score_of_a_kind_without_phrases_is_nan(masks: tuple[Tensor, Tensor]) -> None:
    everything = torch.ones(20, dtype=torch.bool)
    scores = narrative_scores(compute_overlap(*masks), everything, everything)
    assert math.isnan(scores.stuff)
    assert not math.isnan(scores.things)


def test_iou_of_two_empty_masks_is_1_and_of_one_is_0() -> None:
    empty, full = torch.zeros(1, 2, 2, dtype=torch.bool), torch.ones(1, 2, 2, dtype=torch.bool)
    assert compute_overlap(empty, empty).iou.tolist() == [1.0]
    assert compute_overlap(full, empty).iou.tolist() == [0.0]


def test_pictures_of_different_sizes_are_joined(masks: tuple[Tensor, Tensor]) -> None:
    predicted, target = masks
    parts = [
        compute_overlap(predicted[:5], target[:5]),
        compute_overlap(predicted[5:].mT, target[5:].mT),
    ]
    assert torch.equal(Overlap.concatenate(parts).iou, compute_overlap(predicted, target).iou)


def test_wrong_masks_are_refused(masks: tuple[Tensor, Tensor]) -> None:
    predicted, target = masks
    with pytest.raises(InputError, match="true ones"):
        compute_overlap(predicted[:3], target)
    with pytest.raises(InputError, match="float32"):
        compute_overlap(predicted.float(), target)
    with pytest.raises(InputError, match="is_plural"):
        narrative_scores(compute_overlap(predicted, target), target[:, 0, 0], target[:3, 0, 0])
