"""Masks of phrases from the LMM's attention and SAM, without training.

As attend-and-segment (arXiv 2410.08209): the mean of all maps of a phrase's tokens, minus the mean
over its text's tokens, has its maximum in the phrase's object; SAM is prompted with that point.

Letters: ``P`` phrases, ``h w`` image-token grid, ``H W`` picture size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flmm.attention.trace import Trace, TracedPhrase
from flmm.pictures.geometry import crop_to_picture, resize_maps_to_picture, resize_to_picture
from flmm.segmenters.base import Segmenter
from flmm.segmenters.prompts import PictureEmbeddings, SegmenterPrompts
from flmm.types import ImageGeometry

TRAINING_FREE = "training-free"
"""The method's name, and the model's in answers."""


class TrainingFreeMasks:
    """Masks from attention and, where there is one, a segmenter.

    Args:
        segmenter: the SAM that is prompted; None makes masks from attention alone.
    """

    def __init__(self, segmenter: Segmenter | None) -> None:
        self._segmenter = segmenter

    def predict_logits(
        self, traced_phrases: Sequence[TracedPhrase], embeddings: PictureEmbeddings | None
    ) -> Tensor:
        """Return (P, H, W) mask logits of all phrases of one picture.

        Args:
            traced_phrases: at least one, each with the trace of its own text.
            embeddings: the picture's, from the segmenter; None makes masks from attention alone.
        """
        geometry = traced_phrases[0][1].geometry
        text_maps: dict[int, Tensor] = {}
        maps = torch.stack(
            [_contrast_with_text(span.tokens, trace, text_maps) for span, trace in traced_phrases]
        )
        if self._segmenter is None or embeddings is None:
            return _threshold_maps(maps, geometry)
        prompts = SegmenterPrompts(
            points=_maximum_points(maps, geometry),
            point_labels=torch.ones(len(maps), 1, device=maps.device),
        )
        masks = self._segmenter.decode(embeddings, geometry.picture, prompts, multimask=True)
        best = masks.logits[torch.arange(len(maps)), masks.scores.argmax(dim=1)]
        return self._segmenter.upsample_to_picture(best, geometry.picture)


def _contrast_with_text(
    tokens: Sequence[int], trace: Trace, text_maps: dict[int, Tensor]
) -> Tensor:
    """Return the phrase's mean map minus its text's, (h, w); alone where the text is the phrase.

    ``text_maps``: the mean maps of the traces so far, by identity.
    """
    attention = trace.picture_attention
    own = attention.phrase_maps(tokens).mean(dim=0)
    if len(tokens) == len(trace.token_ids):
        return own
    if id(trace) not in text_maps:
        text_maps[id(trace)] = attention.phrase_maps(range(len(trace.token_ids))).mean(dim=0)
    return own - text_maps[id(trace)]


def _threshold_maps(maps: Tensor, geometry: ImageGeometry) -> Tensor:
    """Return (P, H, W) logits, positive where a map is above its mean and one deviation."""
    deviation = maps.std(dim=(1, 2), correction=0, keepdim=True)
    level = maps.mean(dim=(1, 2), keepdim=True) + deviation
    scaled = (maps - level) / deviation.clamp(min=1e-12)
    return resize_to_picture(crop_to_picture(scaled, geometry), geometry)


def _maximum_points(maps: Tensor, geometry: ImageGeometry) -> Tensor:
    """Return (P, 1, 2): x and y of each map's maximum, in pixels of the picture."""
    on_picture = resize_maps_to_picture(maps, geometry, geometry.picture)
    indices = on_picture.flatten(1).argmax(dim=1)
    width = geometry.picture[1]
    rows = torch.div(indices, width, rounding_mode="floor")
    return torch.stack([indices % width, rows], dim=1)[:, None].float() + 0.5
