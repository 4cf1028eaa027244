"""Attend-and-segment (Cao, Gui and Wang, ICCV 2025, arXiv 2410.08209, section 3.2).

Letters: ``P`` phrases, ``T`` tokens of the text, ``h w`` image-token grid, ``H W`` picture size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flmm.lmm.base import LMMAdapter
from flmm.segmenters.base import Segmenter
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.training_free.baselines.base import Baseline, segment_largest_at_maximum
from flmm.training_free.traced_text import TracedText
from flmm.types import ImageGeometry


class AttendAndSegment(Baseline):
    """The mean of all layers' and heads' maps, minus what all tokens attend to; one point for SAM.

    A phrase that is the whole text has no other tokens to be compared with, and the difference
    would be 0 everywhere: then the mean map itself is taken.
    """

    name = "attend-and-segment"

    def compute_maps(
        self,
        adapter: LMMAdapter,  # noqa: ARG002 (other methods run the LMM again)
        texts: Sequence[TracedText],
    ) -> list[Tensor]:
        """See ``Baseline.compute_maps``; the LMM does not run again."""
        return [_compute_text_maps(text) for text in texts]

    def segment_maps(
        self,
        maps: Tensor,
        geometry: ImageGeometry,
        segmenter: Segmenter,
        embeddings: PictureEmbeddings,
    ) -> Tensor:
        """See ``Baseline.segment_maps``: the largest mask at the map's maximum."""
        return segment_largest_at_maximum(maps, geometry, segmenter, embeddings)


def _compute_text_maps(text: TracedText) -> Tensor:
    attention = text.trace.picture_attention
    count = len(text.trace.token_ids)
    # Token by token: all layers' and heads' maps of a long text need gigabytes.
    token_maps = [attention.token_maps([token]).mean(dim=(0, 1, 2)) for token in range(count)]
    maps = torch.stack(token_maps).cpu()
    common = maps.mean(dim=0)
    phrase_maps = [
        maps[list(span.tokens)].mean(dim=0) - (common if len(span.tokens) < count else 0)
        for span in text.spans
    ]
    return torch.stack(phrase_maps) if phrase_maps else maps[:0]
