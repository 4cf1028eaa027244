"""Metrics of masks, boxes and spans, beside simple implementations."""

import math
import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from flmm.errors import InputError
from flmm.evaluate.metrics import (
    Overlap,
    SpanCounts,
    average_recall,
    box_accuracy,
    box_iou,
    compute_overlap,
    count_spans,
    cumulative_iou,
    mean_iou,
    narrative_scores,
    precision_at,
    reasoning_scores,
    referring_scores,
)
from flmm.pictures.geometry import mask_boxes


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


def random_masks(seed: int, count: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    """Return predicted, true and ignored masks, some of them empty."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(count, 6, 7, generator=generator) > 0.5
    flips = torch.rand(count, 1, 1, generator=generator)
    predicted = target ^ (torch.rand(count, 6, 7, generator=generator) < flips)
    ignored = torch.rand(count, 6, 7, generator=generator) < 0.2
    predicted[3] = target[3] = False
    predicted[5] = False
    ignored[7] = True
    return predicted, target, ignored


def slow_counts(predicted: Tensor, target: Tensor, ignored: Tensor) -> tuple[int, int]:
    intersection = union = 0
    for row in range(target.shape[0]):
        for column in range(target.shape[1]):
            if ignored[row, column]:
                continue
            is_predicted, is_true = bool(predicted[row, column]), bool(target[row, column])
            intersection += is_predicted and is_true
            union += is_predicted or is_true
    return intersection, union


def slow_iou(intersection: float, union: float) -> float:
    return intersection / union if union else 1.0


@pytest.mark.parametrize("seed", range(3))
def test_reasoning_scores_leave_ignored_pixels_out_of_both_masks(seed: int) -> None:
    predicted, target, ignored = random_masks(seed)
    counts = [slow_counts(*masks) for masks in zip(predicted, target, ignored, strict=True)]
    scores = reasoning_scores(compute_overlap(predicted, target, ignored))
    ious = [slow_iou(*count) for count in counts]
    assert scores.generalised_iou == pytest.approx(100 * sum(ious) / len(ious))
    assert scores.cumulative_iou == pytest.approx(
        100 * sum(count[0] for count in counts) / sum(count[1] for count in counts)
    )


@pytest.mark.parametrize("seed", range(3))
def test_precision_at_every_threshold(seed: int) -> None:
    predicted, target, ignored = random_masks(seed)
    none = torch.zeros_like(ignored)
    ious = [slow_iou(*slow_counts(*masks)) for masks in zip(predicted, target, none, strict=True)]
    scores = vars(referring_scores(compute_overlap(predicted, target)))
    for tenth in (5, 6, 7, 8, 9):
        above = sum(1 for iou in ious if iou > tenth / 10)
        assert scores[f"precision_at_0_{tenth}"] == pytest.approx(100 * above / len(ious))


def test_unknown_kinds_are_neither_things_nor_stuff() -> None:
    predicted, target, _ = random_masks(0, 9)
    overlap = compute_overlap(predicted, target)
    is_thing, is_stuff = torch.arange(9) < 3, torch.arange(9) > 6
    scores = narrative_scores(overlap, is_thing, torch.zeros(9, dtype=torch.bool), is_stuff)
    ious = overlap.iou.tolist()
    assert scores.stuff == pytest.approx(sum(ious[7:]) / 2)
    assert scores.things == pytest.approx(sum(ious[:3]) / 3)
    assert scores.all == pytest.approx(sum(ious) / 9)
    with pytest.raises(InputError, match="is_stuff"):
        narrative_scores(overlap, is_thing, is_thing, is_stuff[:3])


def slow_box_iou(first: Sequence[int], second: Sequence[int]) -> float:
    """Return the IoU of the boxes' sets of pixels."""
    pixels = [
        {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}
        for box in (first, second)
    ]
    union = pixels[0] | pixels[1]
    return len(pixels[0] & pixels[1]) / len(union) if union else 0.0


def test_box_iou_and_accuracy() -> None:
    generator = torch.Generator().manual_seed(1)
    low = torch.randint(0, 12, (2, 60, 2), generator=generator)
    boxes = torch.cat([low, low + torch.randint(1, 12, (2, 60, 2), generator=generator)], dim=2)
    boxes[1, 40:] = boxes[0, 40:] + torch.tensor([0, 0, 1, 0])
    boxes[0, 0] = boxes[1, 0] = boxes[0, 1] = 0
    slow = [slow_box_iou(*pair) for pair in zip(boxes[0].tolist(), boxes[1].tolist(), strict=True)]
    ious = box_iou(boxes[0], boxes[1])
    assert ious.tolist() == pytest.approx(slow)
    share = sum(1 for iou in slow if iou > 0.5) / len(slow)
    assert box_accuracy(ious) == pytest.approx(share)
    assert 0.2 < share < 0.8


def test_box_iou_of_exactly_half_does_not_count() -> None:
    half = box_iou(torch.tensor([[0, 0, 4, 2]]), torch.tensor([[0, 0, 4, 4]]))
    assert half.tolist() == [0.5]
    assert box_accuracy(half) == 0


def slow_f1(chosen: Sequence[tuple[int, int]], wanted: Sequence[tuple[int, int]]) -> float:
    hits = [span for span in chosen if any(span == other for other in wanted)]
    precision, recall = len(hits) / len(chosen), len(hits) / len(wanted)
    return 2 * precision * recall / (precision + recall) if hits else 0.0


def test_span_f1_needs_exact_start_and_end() -> None:
    source = random.Random(0)
    total, everything = SpanCounts(0, 0, 0), ([], [])  # type: ignore[var-annotated]
    for text in range(30):
        spans = [(start, start + length) for start in range(6) for length in (1, 2)]
        chosen, wanted = source.sample(spans, 4), source.sample(spans, 5)
        total += count_spans(chosen, wanted)
        assert count_spans(chosen, wanted).f1 == pytest.approx(slow_f1(chosen, wanted))
        for kept, more in zip(everything, (chosen, wanted), strict=True):
            kept.extend((100 * text + start, 100 * text + end) for start, end in more)
    assert total.f1 == pytest.approx(slow_f1(*everything))
    assert count_spans([(0, 5)], [(0, 4)]).f1 == 0
    assert (total.precision, total.recall) == (total.hits / 120, total.hits / 150)
    assert math.isnan(count_spans([], []).f1)


def test_boxes_of_masks_for_referring_comprehension() -> None:
    predicted, target, _ = random_masks(2)
    for mask, box in zip(predicted, mask_boxes(predicted).tolist(), strict=True):
        inside = mask.nonzero().tolist()
        rows, columns = [pixel[0] for pixel in inside], [pixel[1] for pixel in inside]
        slow = [min(columns), min(rows), max(columns) + 1, max(rows) + 1] if inside else [0] * 4
        assert box == slow
    assert 0 < box_accuracy(box_iou(mask_boxes(predicted), mask_boxes(target))) <= 1
