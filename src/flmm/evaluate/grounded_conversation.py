"""Grounded conversation generation (GCG): the LMM's own caption beside a true one.

After GLaMM (Rasheed et al., CVPR 2024, section 4.1 and its published evaluation), with one
difference: it compares phrases by the similarity of their BERT embeddings, this file by the words
that they share (``word_overlap``), so that no further model is needed. Mask recall is therefore
not quite that of papers; AP50 and mIoU, which look at masks alone, are.

Letters: ``s`` said phrases of a caption, ``t`` true phrases of its picture.
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
"""What IoU and word overlap must reach at least."""

_WORD = re.compile(r"\w+")
_ARTICLES = frozenset(("a", "an", "the"))


@dataclass(frozen=True)
class PredictedPhrase:
    """A phrase of the LMM's own caption."""

    text: str
    mask: CocoRLE
    score: float
    """In 0..1; which phrases AP50 looks at first."""


@dataclass(frozen=True)
class TruePhrase:
    """A phrase of the true caption."""

    text: str
    mask: CocoRLE


@dataclass(frozen=True)
class CaptionPair:
    """What was said about one picture, and what is there."""

    predicted: tuple[PredictedPhrase, ...]
    true: tuple[TruePhrase, ...]


@dataclass(frozen=True)
class GroundedConversationScores:
    """Grounded conversation generation, all in percent as papers print them."""

    mask_recall: float
    average_precision_at_0_5: float
    mean_iou: float


def score_grounded_conversations(
    caption_pairs: Sequence[CaptionPair],
) -> GroundedConversationScores:
    """Scores of all pictures together; NaN without a true phrase."""
    return GroundedConversationScores(
        100 * mask_recall(caption_pairs),
        100 * average_precision(caption_pairs),
        100 * mean_matched_iou(caption_pairs),
    )


def pairwise_mask_iou(predicted: Sequence[CocoRLE], true: Sequence[CocoRLE]) -> NDArray[np.float64]:
    """(s, t) float64: the IoU of every said mask with every true one; 0 where both are empty."""
    if not predicted or not true:
        return np.zeros((len(predicted), len(true)))
    ious = coco.iou(list(predicted), list(true), [False] * len(true))
    return np.nan_to_num(np.asarray(ious, dtype=np.float64))


def match_greedily(values: NDArray[np.float64], min_value: float = 0.0) -> list[tuple[int, int]]:
    """One-to-one pairs (row, column), the highest values first.

    Args:
        values: (s, t), such as IoUs.
        least: what a pair's value must reach; one of 0 never makes a pair.
    """
    left = values.copy()
    pairs = []
    while left.size:
        row, column = divmod(int(left.argmax()), left.shape[1])
        if left[row, column] < min_value or left[row, column] <= 0:
            break
        pairs.append((row, column))
        left[row, :] = left[:, column] = 0
    return pairs


def word_overlap(first: str, second: str) -> float:
    """How far two phrases are the same words, in 0..1.

    Twice the number of shared words over the number of words in both (Dice), without regard to
    case, order, repetition and articles. The plain replacement of GLaMM's BERT similarity.
    """
    words = [set(_WORD.findall(text.lower())) - _ARTICLES for text in (first, second)]
    together = len(words[0]) + len(words[1])
    return 2 * len(words[0] & words[1]) / together if together else 0.0


def mask_recall(caption_pairs: Sequence[CaptionPair]) -> float:
    """Share of the true phrases that were found, in 0..1; NaN when there is none.

    Found is a phrase when a said one, which stands for no other, has at least ``THRESHOLD`` of IoU
    with its mask and of word overlap with its text; of several, the one of highest IoU.
    """
    found = wanted = 0
    for one in caption_pairs:
        alike = [
            [word_overlap(said.text, true.text) for true in one.true] for said in one.predicted
        ]
        ious = _pair_mask_iou(one)
        ious[np.asarray(alike).reshape(ious.shape) < MATCH_THRESHOLD] = 0
        found += len(match_greedily(ious, MATCH_THRESHOLD))
        wanted += len(one.true)
    return found / wanted if wanted else math.nan


def mean_matched_iou(caption_pairs: Sequence[CaptionPair]) -> float:
    """mIoU of GCG, in 0..1; NaN without pictures.

    Said and true masks of a picture are paired off, the highest IoU first, until nothing overlaps;
    a picture scores its pairs' mean IoU, or 0 without a pair, and the score is the pictures' mean.
    """
    means = []
    for one in caption_pairs:
        ious = _pair_mask_iou(one)
        pairs = match_greedily(ious)
        means.append(sum(ious[pair] for pair in pairs) / len(pairs) if pairs else 0.0)
    return float(np.mean(means)) if means else math.nan


def average_precision(caption_pairs: Sequence[CaptionPair]) -> float:
    """COCO's AP50 of the masks, all phrases as one category, in 0..1; NaN without a true phrase.

    Computed by COCO's own evaluation; at most 100 phrases a picture count.
    """
    if not any(one.true for one in caption_pairs):
        return math.nan
    annotations = [
        {
            "image_id": picture, "category_id": 1, "iscrowd": 0, "segmentation": phrase.mask,
            "area": float(coco.area(phrase.mask)),
        }
        for picture, one in enumerate(caption_pairs)
        for phrase in one.true
    ]  # fmt: skip
    found = [
        {
            "image_id": picture, "category_id": 1, "segmentation": phrase.mask,
            "score": phrase.score,
        }
        for picture, one in enumerate(caption_pairs)
        for phrase in one.predicted
    ]  # fmt: skip
    if not found:
        return 0.0
    # COCO's evaluation prints what it does.
    with redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [_image(picture, one) for picture, one in enumerate(caption_pairs)],
            "categories": [{"id": 1}],
            "annotations": [{"id": number, **one} for number, one in enumerate(annotations, 1)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "segm")
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
