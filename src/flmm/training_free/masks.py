"""Masks of phrases from the LMM's attention and SAM, without training.

Contrast maps say where a phrase is; SAM gives candidate masks for points and boxes of them; that
candidate is chosen which explains the maps and which SAM itself rates high.

Letters: ``P`` phrases, ``K`` candidates a phrase, ``h w`` image-token grid, ``a b`` frame of the
segmenter's low-resolution logits that shows the picture, ``H W`` picture size.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from flmm.attention.trace import TracedPhrase
from flmm.masks.low_resolution import LowResolutionLogits
from flmm.pictures.geometry import crop_to_picture, resize_to_picture, sample_on_picture
from flmm.segmenters.base import Segmenter
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.training_free.candidates import (
    low_resolution_frame,
    propose_candidates,
    scale_to_levels,
)
from flmm.training_free.contrast import ContrastMaps, compute_contrast_maps, correlate
from flmm.training_free.profile import Profile
from flmm.types import ImageGeometry

TRAINING_FREE = "training-free"
"""The method's name, and the model's in answers."""

METHOD_VERSION = 2
"""Higher with every change of the masks, so that results of several versions are not mixed."""

_CORRELATION_WEIGHT = 0.15
"""Of the correlation of mask and map, beside SAM's own score."""
_MASK_LEVEL = 0.4
"""Masks from attention alone are where a log map is above this, between median and maximum."""
_PHRASES_PER_PASS = 16
"""Limits the memory of candidates."""


class TrainingFreeMasks:
    """Masks from attention and, where there is one, a segmenter.

    Args:
        segmenter: the SAM that is prompted; None makes masks from attention alone.
        profile: which of the LMM's heads count; None weighs all alike.
    """

    def __init__(self, segmenter: Segmenter | None, profile: Profile | None = None) -> None:
        self._segmenter = segmenter
        self._head_weights: Tensor | None = None
        if profile is not None:
            # Scaled in double precision: in single, the least weights of a file would be 0.
            weights = torch.tensor(profile.head_weights, dtype=torch.float64)
            self._head_weights = (weights / weights.max()).float()

    @torch.no_grad()
    def predict_logits(
        self, traced_phrases: Sequence[TracedPhrase], embeddings: PictureEmbeddings | None
    ) -> Iterator[LowResolutionLogits]:
        """Yield the mask logits of each phrase of one picture, (1, a, b).

        Args:
            traced_phrases: each with the trace of its own text.
            embeddings: the picture's, from the segmenter; None makes masks from attention alone.
        """
        if not traced_phrases:
            return
        geometry = traced_phrases[0][1].geometry
        maps = compute_contrast_maps(traced_phrases, self._head_weights)
        for first in range(0, len(traced_phrases), _PHRASES_PER_PASS):
            in_pass = slice(first, first + _PHRASES_PER_PASS)
            part = ContrastMaps(maps.log[in_pass], maps.rectified[in_pass])
            if self._segmenter is None or embeddings is None:
                visible = crop_to_picture(part.log, geometry)
                levels = scale_to_levels(visible) - _MASK_LEVEL
                logits = LowResolutionLogits(levels, partial(resize_to_picture, geometry=geometry))
            else:
                logits = LowResolutionLogits(
                    _choose_candidates(part, geometry, self._segmenter, embeddings),
                    self._segmenter.get_upsampling(geometry.picture),
                )
            yield from map(logits.of_phrase, range(len(logits.logits)))


def _choose_candidates(
    maps: ContrastMaps,
    geometry: ImageGeometry,
    segmenter: Segmenter,
    embeddings: PictureEmbeddings,
) -> Tensor:
    """Return the best candidate's low-resolution logits of each phrase, (P, 4e, 4e)."""
    candidates = propose_candidates(maps, geometry, segmenter, embeddings)
    masks = segmenter.cut_to_picture(candidates.logits, geometry.picture) > 0
    frame = low_resolution_frame(segmenter, geometry.picture)
    attention = sample_on_picture(maps.rectified, geometry, frame).to(masks.device)
    agreement = correlate(masks.float().flatten(2), attention.flatten(1)[:, None])
    scores = candidates.scores + _CORRELATION_WEIGHT * agreement
    best: Tensor = candidates.logits[torch.arange(len(scores)), scores.argmax(dim=1)]
    return best
