"""Selection of the attention maps that localise phrases best, on a few pictures, untrained.

Letters: ``P`` phrases, ``K`` maps, ``h w`` image-token grid, ``h'' w''`` its part with the picture.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from flmm.pictures.geometry import crop_to_picture
from flmm.train.dataset import TrainingExample

_THRESHOLDS = tuple(step / 20 for step in range(1, 20))


def score_maps(pictures: Iterable[TrainingExample]) -> Tensor:
    """Return (K,) in 0..1: each map's mean IoU with the true masks, at its best threshold.

    A map is scaled to a maximum of 1 and has one threshold for all phrases. Masks are compared on
    the grid, where a cell that a mask covers in part counts in part.
    """
    total = torch.zeros(())
    phrases = 0
    for picture in pictures:
        geometry = picture.features.geometry
        maps = torch.stack([phrase.attention for phrase in picture.features.phrases]).cpu().float()
        maps = crop_to_picture(maps, geometry)
        scaled = maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-30)
        truth = functional.interpolate(picture.masks.float()[:, None], maps.shape[2:], mode="area")
        total = total + torch.stack(
            [_soft_iou(scaled > threshold, truth) for threshold in _THRESHOLDS]
        )
        phrases += len(maps)
    return (total / max(phrases, 1)).amax(dim=0)


def _soft_iou(masks: Tensor, truth: Tensor) -> Tensor:
    """Return (K,) sums of IoU over phrases: (P, K, h'', w'') bool with (P, 1, h'', w'') shares."""
    intersection = (masks * truth).sum((2, 3))
    union = torch.maximum(masks.to(truth), truth).sum((2, 3))
    return (intersection / union.clamp_min(1e-12)).sum(dim=0)


def select_best_maps(scores: Tensor, count: int) -> tuple[int, ...]:
    """Return the indices of the ``count`` maps with the highest scores, ascending."""
    indices: list[int] = scores.argsort(descending=True, stable=True)[:count].tolist()
    return tuple(sorted(indices))
