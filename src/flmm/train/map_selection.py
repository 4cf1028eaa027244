"""Which of an LMM's attention maps show most, found on a few pictures without any training.

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
    """(K,) in 0..1: each map's mean IoU with the phrases' masks, at the level that suits it best.

    A map is scaled to a maximum of 1 and cut at one level for all phrases; masks are compared on
    the grid, where a cell that a mask covers in part counts in part.
    """
    total = torch.zeros(())
    phrases = 0
    for picture in pictures:
        geometry = picture.features.geometry
        maps = torch.stack([one.attention for one in picture.features.phrases]).cpu().float()
        maps = crop_to_picture(maps, geometry)
        peaked = maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-30)
        truth = functional.interpolate(picture.masks.float()[:, None], maps.shape[2:], mode="area")
        total = total + torch.stack([_soft_iou(peaked > level, truth) for level in _THRESHOLDS])
        phrases += len(maps)
    return (total / max(phrases, 1)).amax(dim=0)


def _soft_iou(cut: Tensor, truth: Tensor) -> Tensor:
    """(P, K, h'', w'') bool and (P, 1, h'', w'') shares to (K,): the sum of IoU over phrases."""
    shared = (cut * truth).sum((2, 3))
    together = torch.maximum(cut.to(truth), truth).sum((2, 3))
    return (shared / together.clamp_min(1e-12)).sum(dim=0)


def select_best_maps(scores: Tensor, count: int) -> tuple[int, ...]:
    """The numbers of the ``count`` maps with the highest scores, ascending."""
    chosen: list[int] = scores.argsort(descending=True, stable=True)[:count].tolist()
    return tuple(sorted(chosen))
