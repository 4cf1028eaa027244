"""Metrics of grounded conversation generation (GCG): generated captions against true ones.

After GLaMM (Rasheed et al., CVPR 2024, section 4.1 and its published evaluation). It compares
phrases by the similarity of their BERT embeddings, as ``published_mask_recall`` does with any text
encoder's; ``mask_recall`` needs no further model and compares the words that they share.

Letters: ``s`` predicted phrases of a caption, ``t`` true phrases of its picture.
"""

import io
import math
import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from flmm.answers.json_types import CocoRLE

MATCH_THRESHOLD = 0.5
"""Lowest IoU, word overlap and similarity of a match."""

_WORD = re.compile(r"\w+")
_ARTICLES = frozenset(("a", "an", "the"))


@dataclass(frozen=True)
class PredictedPhrase:
    """A phrase of a generated caption."""

    text: str
    mask: CocoRLE
    score: float
    """In 0..1; AP50 ranks phrases by it."""


@dataclass(frozen=True)
class TruePhrase:
    """A phrase of the true caption."""

    text: str
    mask: CocoRLE


@dataclass(frozen=True)
class CaptionPair:
    """The predicted and the true phrases of one picture."""

    predicted: tuple[PredictedPhrase, ...]
    true: tuple[TruePhrase, ...]


@dataclass(frozen=True)
class GroundedConversationScores:
    """Scores of grounded conversation generation, in percent."""

    mask_recall: float
    average_precision_at_0_5: float
    mean_iou: float


def score_grounded_conversations(
    caption_pairs: Sequence[CaptionPair],
) -> GroundedConversationScores:
    """Return the scores of all pictures together; NaN without a true phrase."""
    return GroundedConversationScores(
        100 * mask_recall(caption_pairs),
        100 * average_precision(caption_pairs),
        100 * mean_matched_iou(caption_pairs),
    )


def pairwise_mask_iou(predicted: Sequence[CocoRLE], true: Sequence[CocoRLE]) -> NDArray[np.float64]:
    """Return the IoU of each predicted with each true mask, (s, t) float64; 0 if both are empty."""
    if not predicted or not true:
        return np.zeros((len(predicted), len(true)))
    ious = coco.iou(list(predicted), list(true), [False] * len(true))
    return np.nan_to_num(np.asarray(ious, dtype=np.float64))


def match_greedily(values: NDArray[np.float64], min_value: float = 0.0) -> list[tuple[int, int]]:
    """Return one-to-one pairs (row, column), the highest values first.

    Args:
        values: (s, t), such as IoUs.
        min_value: the lowest value of a pair; a value of 0 never makes a pair.
    """
    remaining = values.copy()
    pairs = []
    while remaining.size:
        row, column = divmod(int(remaining.argmax()), remaining.shape[1])
        if remaining[row, column] < min_value or remaining[row, column] <= 0:
            break
        pairs.append((row, column))
        remaining[row, :] = remaining[:, column] = 0
    return pairs


def word_overlap(first: str, second: str) -> float:
    """Return how similar two phrases' words are, in 0..1.

    Twice the number of shared words over the sum of both numbers of words (Dice), ignoring case,
    order, repetition and articles.
    """
    words = [set(_WORD.findall(text.lower())) - _ARTICLES for text in (first, second)]
    total = len(words[0]) + len(words[1])
    return 2 * len(words[0] & words[1]) / total if total else 0.0


def mask_recall(caption_pairs: Sequence[CaptionPair]) -> float:
    """Return the share of true phrases that are matched, in 0..1; NaN when there is none.

    A match is a predicted phrase, matched with no other, whose mask's IoU and text's word overlap
    are both at least ``MATCH_THRESHOLD``; of several, the one of highest IoU.
    """
    num_matched = num_true = 0
    for pair in caption_pairs:
        overlaps = [
            [word_overlap(predicted.text, true.text) for true in pair.true]
            for predicted in pair.predicted
        ]
        ious = _pair_mask_iou(pair)
        ious[np.asarray(overlaps).reshape(ious.shape) < MATCH_THRESHOLD] = 0
        num_matched += len(match_greedily(ious, MATCH_THRESHOLD))
        num_true += len(pair.true)
    return num_matched / num_true if num_true else math.nan


def published_mask_recall(
    caption_pairs: Sequence[CaptionPair], similarities: Sequence[NDArray[np.float64]]
) -> float:
    """Return the mask recall of GLaMM's published evaluation, in 0..1; NaN without a true phrase.

    Predicted and true masks of a picture are paired greedily, the highest IoU first. A pair counts
    if its IoU and its phrases' similarity are both at least ``MATCH_THRESHOLD``, and the first that
    fails either ends the picture: pairs of lower IoU do not count, however similar. Divided by the
    number of true phrases.

    Args:
        caption_pairs: of all pictures.
        similarities: of each, its phrases' (s, t), in -1..1.
    """
    num_matched = num_true = 0
    for pair, similarity in zip(caption_pairs, similarities, strict=True):
        # True phrases first, so that of equal IoUs the same pair comes first as in GLaMM's.
        pairs = match_greedily(_pair_mask_iou(pair).T, MATCH_THRESHOLD)
        for match in pairs:
            if similarity.T[match] < MATCH_THRESHOLD:
                break
            num_matched += 1
        num_true += len(pair.true)
    return num_matched / num_true if num_true else math.nan


def mean_matched_iou(caption_pairs: Sequence[CaptionPair]) -> float:
    """Return the mIoU of GCG, in 0..1; NaN without pictures.

    Predicted and true masks of a picture are matched, the highest IoU first, until nothing
    overlaps; a picture scores its matches' mean IoU, or 0 without a match, and the score is the
    pictures' mean.
    """
    means = []
    for caption_pair in caption_pairs:
        ious = _pair_mask_iou(caption_pair)
        matches = match_greedily(ious)
        means.append(sum(ious[match] for match in matches) / len(matches) if matches else 0.0)
    return float(np.mean(means)) if means else math.nan


def average_precision(caption_pairs: Sequence[CaptionPair]) -> float:
    """Return COCO's AP50 of the masks, in 0..1; NaN without a true phrase.

    Computed by COCO's own evaluation, all phrases as one category; at most 100 a picture count.
    """
    if not any(pair.true for pair in caption_pairs):
        return math.nan
    annotations = [
        {
            "image_id": picture, "category_id": 1, "iscrowd": 0, "segmentation": phrase.mask,
            "area": float(coco.area(phrase.mask)),
        }
        for picture, pair in enumerate(caption_pairs)
        for phrase in pair.true
    ]  # fmt: skip
    detections = [
        {
            "image_id": picture, "category_id": 1, "segmentation": phrase.mask,
            "score": phrase.score,
        }
        for picture, pair in enumerate(caption_pairs)
        for phrase in pair.predicted
    ]  # fmt: skip
    if not detections:
        return 0.0
    # COCO's evaluation prints its progress.
    with redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [_image(picture, pair) for picture, pair in enumerate(caption_pairs)],
            "categories": [{"id": 1}],
            "annotations": [
                {"id": number, **annotation} for number, annotation in enumerate(annotations, 1)
            ],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "segm")
        evaluation.params.iouThrs = np.array([MATCH_THRESHOLD])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, math.inf]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return float(evaluation.eval["precision"][0, :, 0, 0, -1].mean())


def _image(picture: int, pair: CaptionPair) -> dict[str, int]:
    masks = [phrase.mask for phrase in pair.predicted] + [phrase.mask for phrase in pair.true]
    height, width = masks[0]["size"] if masks else (0, 0)
    return {"id": picture, "height": height, "width": width}


def _pair_mask_iou(pair: CaptionPair) -> NDArray[np.float64]:
    return pairwise_mask_iou(
        [phrase.mask for phrase in pair.predicted], [phrase.mask for phrase in pair.true]
    )
