"""Attend-and-segment (Cao, Gui and Wang, ICCV 2025, arXiv 2410.08209, section 3.2).

Letters: ``P`` phrases, ``T`` tokens of the text, ``h w`` image-token grid.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flmm.lmm.base import LMMAdapter
from flmm.training_free.baselines.base import MaximumPointBaseline, average_over_phrases
from flmm.training_free.traced_text import TracedText


class AttendAndSegment(MaximumPointBaseline):
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


def _compute_text_maps(text: TracedText) -> Tensor:
    attention = text.trace.picture_attention
    count = len(text.trace.token_ids)
    # Token by token: all layers' and heads' maps of a long text need gigabytes.
    token_maps = [attention.token_maps([token]).mean(dim=(0, 1, 2)) for token in range(count)]
    maps = torch.stack(token_maps).cpu()
    covers_text = torch.tensor([len(span.tokens) == count for span in text.spans], dtype=torch.bool)
    common = torch.where(covers_text[:, None, None], 0, maps.mean(dim=0))
    return average_over_phrases(maps, text.spans) - common
