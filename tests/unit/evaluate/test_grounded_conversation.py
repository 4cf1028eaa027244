"""Metrics of grounded conversation generation, beside slow ones written from their definition."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from flmm.answers.run_lengths import encode_rle
from flmm.evaluate.grounded_conversation import (
    CaptionPair,
    PredictedPhrase,
    TruePhrase,
    mask_recall,
    published_mask_recall,
    score_grounded_conversations,
    word_overlap,
)

Mask = NDArray[np.bool_]


def random_caption_pairs(seed: int, pictures: int = 12) -> list[tuple[CaptionPair, list[Mask]]]:
    """Return caption pairs with their masks, predicted ones before true ones."""
    source = np.random.default_rng(seed)
    nouns = ("dog", "tall tree", "house", "red car")
    pairs = []
    for _ in range(pictures):
        true = [_blob(source) for _ in range(int(source.integers(1, 5)))]
        texts = [str(source.choice(nouns)) for _ in true]
        predicted, predicted_texts = [], []
        for mask, text in zip(true, texts, strict=True):
            if source.random() < 0.7:
                predicted.append(
                    mask ^ (source.random(mask.shape) < source.choice([0.02, 0.1, 0.3]))
                )
                predicted_texts.append(f"The {text}" if source.random() < 0.7 else "a cloud")
        for _ in range(int(source.integers(0, 3))):
            predicted.append(_blob(source))
            predicted_texts.append(str(source.choice(nouns)))
        scores = source.permutation(1000)[: len(predicted)] / 1000
        pair = CaptionPair(
            tuple(
                PredictedPhrase(text, encode_rle(mask), float(score))
                for text, mask, score in zip(predicted_texts, predicted, scores, strict=True)
            ),
            tuple(
                TruePhrase(text, encode_rle(mask)) for text, mask in zip(texts, true, strict=True)
            ),
        )
        pairs.append((pair, [*predicted, *true]))
    return pairs


def _blob(source: np.random.Generator) -> Mask:
    mask = np.zeros((12, 14), dtype=np.bool_)
    top, left = source.integers(0, 6, 2)
    mask[top : top + source.integers(2, 7), left : left + source.integers(2, 8)] = True
    return mask


def slow_ious(pair: CaptionPair, masks: Sequence[Mask]) -> dict[tuple[int, int], float]:
    predicted, true = masks[: len(pair.predicted)], masks[len(pair.predicted) :]
    return {
        (i, j): float((first & second).sum() / (first | second).sum())
        for i, first in enumerate(predicted)
        for j, second in enumerate(true)
    }


def slow_matches(ious: dict[tuple[int, int], float]) -> list[tuple[int, int]]:
    """Match masks one to one, the highest IoU first."""
    matches: list[tuple[int, int]] = []
    for pair in sorted(ious, key=lambda pair: -ious[pair]):
        if ious[pair] > 0 and all(pair[0] != i and pair[1] != j for i, j in matches):
            matches.append(pair)
    return matches


def slow_average_precision(pairs: Sequence[tuple[CaptionPair, list[Mask]]]) -> float:
    """Rank phrases by score; average the best precision at or above each of 101 recalls."""
    order = sorted(
        (-phrase.score, picture, number)
        for picture, (caption_pair, _) in enumerate(pairs)
        for number, phrase in enumerate(caption_pair.predicted)
    )
    ious = [slow_ious(*pair) for pair in pairs]
    matched: set[tuple[int, int]] = set()
    num_true = sum(len(caption_pair.true) for caption_pair, _ in pairs)
    points, hits = [], 0
    for rank, (_, picture, number) in enumerate(order, 1):
        free = [
            (ious[picture][number, other], other)
            for other in range(len(pairs[picture][0].true))
            if (picture, other) not in matched and ious[picture][number, other] >= 0.5
        ]
        if free:
            matched.add((picture, max(free)[1]))
            hits += 1
        points.append((hits / num_true, hits / rank))
    best = [
        max((precision for recall, precision in points if recall >= step / 100), default=0.0)
        for step in range(101)
    ]
    return sum(best) / 101


@pytest.mark.parametrize("seed", range(4))
def test_conversation_scores(seed: int) -> None:
    pairs = random_caption_pairs(seed)
    num_matched = num_true = 0
    means = []
    for pair, masks in pairs:
        ious = slow_ious(pair, masks)
        matched_ious = [ious[match] for match in slow_matches(ious)]
        means.append(sum(matched_ious) / len(matched_ious) if matched_ious else 0.0)
        same_text_ious = {
            (i, j): iou
            for (i, j), iou in ious.items()
            if iou >= 0.5 and pair.predicted[i].text.removeprefix("The ") == pair.true[j].text
        }
        num_matched += len(slow_matches(same_text_ious))
        num_true += len(pair.true)
    scores = score_grounded_conversations([pair for pair, _ in pairs])
    assert scores.mean_iou == pytest.approx(100 * sum(means) / len(means))
    assert scores.mask_recall == pytest.approx(100 * num_matched / num_true)
    assert scores.average_precision_at_0_5 == pytest.approx(100 * slow_average_precision(pairs))
    assert 5 < scores.average_precision_at_0_5 < 95


def slow_published_matches(
    ious: dict[tuple[int, int], float], similarity: NDArray[np.float64]
) -> int:
    """Count a picture's pairs until the best that is left fails the IoU or the similarity."""
    left = dict(ious)
    num_matched = 0
    while left:
        best = max(left, key=lambda pair: left[pair])
        if left[best] < 0.5 or similarity[best] < 0.5:
            break
        num_matched += 1
        left = {
            pair: iou for pair, iou in left.items() if pair[0] != best[0] and pair[1] != best[1]
        }
    return num_matched


@pytest.mark.parametrize("seed", range(4))
def test_published_mask_recall_ends_at_the_first_pair_that_fails(seed: int) -> None:
    pairs = random_caption_pairs(seed)
    source = np.random.default_rng(seed)
    similarities = [
        source.uniform(0.3, 1.0, (len(pair.predicted), len(pair.true))) for pair, _ in pairs
    ]
    matched = [
        slow_published_matches(slow_ious(*pair), similarity)
        for pair, similarity in zip(pairs, similarities, strict=True)
    ]
    num_true = sum(len(pair.true) for pair, _ in pairs)
    caption_pairs = [pair for pair, _ in pairs]
    assert published_mask_recall(caption_pairs, similarities) == pytest.approx(
        sum(matched) / num_true
    )
    alike = [np.ones_like(similarity) for similarity in similarities]
    assert published_mask_recall(caption_pairs, alike) > sum(matched) / num_true > 0


def test_pair_of_lower_iou_does_not_count_after_one_that_fails() -> None:
    masks = np.zeros((3, 6, 6), dtype=np.bool_)
    masks[0, :3], masks[1, 3:], masks[2, 3:5] = True, True, True
    true = (TruePhrase("a", encode_rle(masks[0])), TruePhrase("b", encode_rle(masks[1])))
    predicted = (
        PredictedPhrase("x", encode_rle(masks[0]), 1.0),
        PredictedPhrase("b", encode_rle(masks[2]), 1.0),
    )
    pair = CaptionPair(predicted, true)
    for first, second, recall in ((0.9, 0.9, 1), (0.9, 0.4, 0.5), (0.4, 0.9, 0), (0.5, 0.5, 1)):
        assert published_mask_recall([pair], [np.diag([first, second])]) == recall
    assert math.isnan(published_mask_recall([], []))
    nothing_said = CaptionPair((), true)
    assert published_mask_recall([nothing_said, pair], [np.zeros((0, 2)), np.ones((2, 2))]) == 0.5


def test_scores_without_predicted_or_true_phrases() -> None:
    mask = encode_rle(np.ones((4, 4), dtype=np.bool_))
    without_predictions = CaptionPair((), (TruePhrase("a dog", mask),))
    scores = score_grounded_conversations([without_predictions])
    assert tuple(vars(scores).values()) == (0, 0, 0)
    assert math.isnan(mask_recall([CaptionPair((PredictedPhrase("a dog", mask, 1.0),), ())]))


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        ("a dog", "The dog", 1.0),
        ("a dog", "a cat", 0.0),
        ("the small brown dog", "dog", 0.5),
        ("dog, left", "Left dog dog", 1.0),
        ("the", "the", 0.0),
    ],
)
def test_word_overlap(first: str, second: str, overlap: float) -> None:
    assert word_overlap(first, second) == word_overlap(second, first) == overlap
