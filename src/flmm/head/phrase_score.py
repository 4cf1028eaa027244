"""The score of a phrase: the probability that it is in the picture and that its mask is right.

A head's score is a logistic regression on a few signals that are there when a mask is: how sure the
mask's pixels are, how likely the LMM finds the phrase's words, how concentrated their attention is,
and how far decoder and refiner agree. It is fitted on phrases whose masks are known and on phrases
that mean nothing in their picture; a mask is right if its IoU with the true one is above 0.5.

Letters: ``P`` phrases, ``K`` maps a phrase, ``h w`` image-token grid, ``H W`` picture size,
``h'' w''`` size of the decoder's logits over the picture's visible part.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flmm.errors import InputError
from flmm.pictures.geometry import background_logit, place_on_picture
from flmm.types import ImageGeometry

RIGHT_IOU = 0.5
"""A mask is right if its IoU with the true one is above this."""
_ROWS = 256


@dataclass(frozen=True)
class PhraseSignals:
    """What is known about a phrase and its mask, and says whether the mask is right."""

    mask_logit: float
    """Mean logit inside the mask; the highest one where the mask is empty."""
    log_probability: float
    """Of the phrase's least likely token, as the LMM finds it; 0 where none is known."""
    attention_entropy: float
    """Mean over the maps of their entropy, in 0..1: 1 is spread evenly over the image tokens."""
    agreement: float
    """IoU of the decoder's and the refined mask, at the decoder's resolution, 0 where both are
    empty; 1 without SAM."""


@dataclass(frozen=True)
class ScoreWeights:
    """The weight of each of ``PhraseSignals`` in the score's logit, and the bias."""

    bias: float
    mask_logit: float
    log_probability: float
    attention_entropy: float
    agreement: float

    @classmethod
    def fit(cls, signals: Sequence[PhraseSignals], is_right: Sequence[bool]) -> Self:
        """Fit the weights to phrases of which it is known whether their masks are right.

        Where all masks are right, or none is, nothing tells them apart: then every score is their
        share by Laplace's rule of succession.
        """
        if len(set(is_right)) < 2:
            wrong = len(is_right) - sum(is_right)
            return cls(math.log((sum(is_right) + 1) / (wrong + 1)), 0.0, 0.0, 0.0, 0.0)
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        rows = np.array([list(asdict(each).values()) for each in signals])
        scaler = StandardScaler().fit(rows)
        regression = LogisticRegression().fit(scaler.transform(rows), is_right)
        weights = regression.coef_[0] / scaler.scale_
        bias = float(regression.intercept_[0] - weights @ scaler.mean_)
        names = [field.name for field in fields(PhraseSignals)]
        return cls(bias, **dict(zip(names, map(float, weights), strict=True)))

    def compute_score(self, signals: PhraseSignals) -> float:
        """Return the score, in 0..1."""
        weights = asdict(self)
        logit = weights.pop("bias") + sum(
            weights[name] * value for name, value in asdict(signals).items()
        )
        return 1 / (1 + math.exp(-max(min(logit, 60.0), -60.0)))


@dataclass(frozen=True)
class ScoreCalibration:
    """The weights of a head's scores."""

    decoder: ScoreWeights
    """Of masks that SAM does not refine."""
    refined: ScoreWeights
    """Of masks that it does; those of the decoder in a head without SAM."""

    @classmethod
    def from_dict(cls, content: Mapping[str, object]) -> Self:
        """Read the calibration from JSON content.

        Raises:
            InputError: an entry is missing, unknown, or no finite number.
        """
        expected = {field.name for field in fields(ScoreWeights)}
        stages = {}
        for stage in (field.name for field in fields(cls)):
            weights = content.get(stage)
            if (
                content.keys() != {field.name for field in fields(cls)}
                or not isinstance(weights, dict)
                or weights.keys() != expected
                or not all(_is_finite(weight) for weight in weights.values())
            ):
                raise InputError(
                    f"head score_calibration is {content!r}; it needs numbers {sorted(expected)}"
                    " for decoder and for refined"
                )
            stages[stage] = ScoreWeights(**weights)
        return cls(**stages)


def compute_signals(
    attention: Tensor,
    log_probabilities: Sequence[Tensor],
    decoder_logits: Tensor,
    logits: Tensor,
    geometry: ImageGeometry,
    refined: bool,
) -> list[PhraseSignals]:
    """Return the signals of phrases of pictures of one geometry.

    Args:
        attention: (P, K, h, w), the decoder's input, not negative.
        log_probabilities: P tensors (n,), from ``compute_log_probabilities``.
        decoder_logits: (P, h'', w'').
        logits: (P, H, W) of the final masks.
        geometry: of the pictures.
        refined: whether the final masks are SAM's.
    """
    areas, positive = (
        logits.new_zeros(len(logits), dtype=dtype) for dtype in (torch.int64, torch.float32)
    )
    # In bands of rows, since sums over all rows would copy the logits.
    for band in torch.split(logits, _ROWS, dim=1):
        areas += (band > 0).sum(dim=(1, 2))
        positive += band.clamp_min(0).sum(dim=(1, 2))
    inside = positive / areas.clamp_min(1)
    mask_logits = torch.where(areas > 0, inside, logits.amax(dim=(1, 2)))
    agreements = torch.ones(len(logits))
    if refined:
        agreements = _compute_agreement(decoder_logits, logits, geometry)
    columns = (mask_logits, _compute_entropy(attention), agreements)
    return [
        PhraseSignals(mask_logit, float(words.min()) if len(words) else 0.0, entropy, agreement)
        for mask_logit, entropy, agreement, words in zip(
            *(column.tolist() for column in columns), log_probabilities, strict=True
        )
    ]


def _compute_entropy(attention: Tensor) -> Tensor:
    """Return the mean entropy (P,) of (P, K, h, w) maps, as a share of the highest possible one."""
    maps = attention.float().flatten(2)
    shares = maps / maps.sum(dim=2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    entropy = torch.special.entr(shares).sum(dim=2)
    share: Tensor = entropy.mean(dim=1) / math.log(max(maps.shape[2], 2))
    return share


def _compute_agreement(
    decoder_logits: Tensor, refined_logits: Tensor, geometry: ImageGeometry
) -> Tensor:
    """Return the IoU (P,) of two stages' masks; 0 where both are empty."""
    height, width = decoder_logits.shape[1:]
    background = background_logit(decoder_logits)
    decoder = place_on_picture(decoder_logits, geometry, (height, width), background) > 0
    resized = functional.interpolate(
        refined_logits[:, None], (height, width), mode="bilinear", align_corners=False
    )
    refined = resized[:, 0] > 0
    union = (decoder | refined).sum(dim=(1, 2))
    agreement: Tensor = (decoder & refined).sum(dim=(1, 2)) / union.clamp_min(1)
    return agreement


def _is_finite(weight: object) -> bool:
    return type(weight) in (int, float) and math.isfinite(weight)  # type: ignore[arg-type]
