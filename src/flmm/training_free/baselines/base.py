"""The interface of all baselines: maps of phrases, and the masks that a segmenter gives for them.

Letters: ``P`` phrases, ``T`` tokens of the text, ``h w`` image-token grid, ``H W`` picture size.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from flmm.errors import InputError
from flmm.lmm.base import LMMAdapter
from flmm.pictures.geometry import sample_on_picture
from flmm.segmenters.base import Segmenter
from flmm.segmenters.prompts import PictureEmbeddings, SegmenterPrompts
from flmm.training_free.traced_text import TracedText
from flmm.types import ImageGeometry, PhraseSpan


class Baseline(ABC):
    """A published method that makes masks from a frozen LMM without training."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Higher with every change of its masks, so that results of several versions are not mixed."""
    needs_image_tokens_in_sequence: ClassVar[bool] = False
    """Whether it reads what the LLM computes at the image tokens."""

    @classmethod
    def check_suits(cls, adapter: LMMAdapter) -> None:
        """Raise InputError if the method cannot be used with an LMM."""
        if cls.needs_image_tokens_in_sequence and not adapter.image_tokens_in_sequence:
            raise InputError(
                f"method {cls.name!r} needs image tokens in the LLM's sequence, and LMM"
                f" {adapter.name!r} has none: cross-attention layers of its own attend to pictures;"
                " choose another method or LMM"
            )

    @abstractmethod
    def compute_maps(self, adapter: LMMAdapter, texts: Sequence[TracedText]) -> list[Tensor]:
        """Return how strongly each image token belongs to each phrase.

        Args:
            adapter: the LMM that read the texts; some methods run it again.
            texts: may be of several pictures.

        Returns:
            (P, h, w) float32 for each text, on the CPU, on the finest view's grid.
        """

    @abstractmethod
    def segment_maps(
        self,
        maps: Tensor,
        geometry: ImageGeometry,
        segmenter: Segmenter,
        embeddings: PictureEmbeddings,
    ) -> Tensor:
        """Return mask logits, with a segmenter that is prompted from maps.

        Args:
            maps: (P, h, w) of one picture, from ``compute_maps``; P is at least 1.
            geometry: of the maps.
            segmenter: as it was published, not trained for the LMM.
            embeddings: the segmenter's, of that picture alone.

        Returns:
            (P, H, W) logits on the segmenter's device.
        """

    @torch.no_grad()
    def predict_logits(
        self,
        adapter: LMMAdapter,
        texts: Sequence[TracedText],
        segmenter: Segmenter,
        embeddings: PictureEmbeddings,
    ) -> list[Tensor]:
        """Return the (P, H, W) mask logits of each text's phrases; all texts are of one picture."""
        return [
            self.segment_maps(maps, text.geometry, segmenter, embeddings)
            if len(maps)
            else maps.new_zeros(0, *text.geometry.picture)
            for maps, text in zip(self.compute_maps(adapter, texts), texts, strict=True)
        ]


class MaximumPointBaseline(Baseline):
    """A method that prompts SAM with one point, at the map's maximum."""

    def segment_maps(
        self,
        maps: Tensor,
        geometry: ImageGeometry,
        segmenter: Segmenter,
        embeddings: PictureEmbeddings,
    ) -> Tensor:
        """See ``Baseline.segment_maps``: the last of SAM's three masks.

        The maps are enlarged bicubically to the picture first. SAM orders its masks from part to
        whole, so the last one is the largest as a rule.
        """
        enlarged = sample_on_picture(maps, geometry, geometry.picture)
        rows, columns = torch.unravel_index(enlarged.flatten(1).argmax(dim=1), geometry.picture)
        points = torch.stack([columns, rows], dim=-1)[:, None] + 0.5
        masks = segmenter.decode(
            embeddings, geometry.picture, SegmenterPrompts.at_points(points), multimask=True
        )
        return segmenter.upsample_to_picture(masks.logits[:, -1], geometry.picture)


def average_over_phrases(token_maps: Tensor, spans: Sequence[PhraseSpan]) -> Tensor:
    """Return (P, h, w): the mean of each phrase's tokens, from (T, h, w) of all the text's."""
    maps = [token_maps[list(span.tokens)].mean(dim=0) for span in spans]
    return torch.stack(maps) if maps else token_maps[:0]


def blur_maps(maps: Tensor) -> Tensor:
    """Return (P, h, w) maps on the CPU, blurred by a Gaussian with a deviation of one cell."""
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(maps.numpy(), (0, 1, 1), mode="nearest"))
