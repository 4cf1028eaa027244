"""Masks without a trained head."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from flmm.answers.answer import Phrase
from flmm.grounding.mask_predictor import MaskPredictor, PicturePhrases, build_phrase
from flmm.segmenters.base import Segmenter
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.training_free.masks import TrainingFreeMasks


class TrainingFreeMaskPredictor(MaskPredictor):
    """A predictor of phrases' masks from the LMM's attention, which needs no training.

    Args:
        segmenter: the SAM that is prompted; None makes masks from attention alone.
        max_cached_pictures: the cache keeps at most so many pictures.
    """

    method = "training-free"
    uses_whole_text = True

    def __init__(self, segmenter: Segmenter | None, max_cached_pictures: int = 4) -> None:
        super().__init__(max_cached_pictures)
        self._segmenter = segmenter
        self._masks = TrainingFreeMasks(segmenter)

    @property
    def uses_segmenter(self) -> bool:
        return self._segmenter is not None

    def _encode(self, picture: NDArray[np.uint8]) -> PictureEmbeddings:
        assert self._segmenter is not None
        return self._segmenter.encode(picture)

    @torch.no_grad()
    def predict_batch(self, pictures: Sequence[PicturePhrases]) -> list[tuple[Phrase, ...]]:
        return [self._predict_picture(picture) for picture in pictures]

    def _predict_picture(self, picture: PicturePhrases) -> tuple[Phrase, ...]:
        if not picture.traced_phrases:
            return ()
        logits = self._masks.predict_logits(picture.traced_phrases, picture.image_embeddings)
        return tuple(
            build_phrase(span, phrase_logits)
            for (span, _), phrase_logits in zip(picture.traced_phrases, logits.cpu(), strict=True)
        )
