"""Masks without a trained head."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image

from flmm.answers.phrase import Phrase
from flmm.attention.trace import PictureAttention, Trace, TracedPhrase
from flmm.attention.tracing import trace_texts
from flmm.grounding.mask_predictor import (
    MaskPredictor,
    PicturePhrases,
    build_phrase,
    hash_picture,
)
from flmm.head.prompt_templates import PromptTemplates
from flmm.lmm.base import LMMAdapter
from flmm.lru_cache import LRUCache
from flmm.segmenters.base import Segmenter
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.training_free.contrast import needs_reference
from flmm.training_free.masks import TrainingFreeMasks
from flmm.training_free.profile import Profile

_REFERENCE_PHRASE = "the background"
"""Its attention is what a single phrase is contrasted with."""


class TrainingFreeMaskPredictor(MaskPredictor):
    """A predictor of phrases' masks from the LMM's attention, which needs no training.

    Args:
        adapter: the LMM.
        segmenter: the SAM that is prompted; None makes masks from attention alone.
        profile: which of the LMM's attention heads count; None weighs all alike.
        max_cached_pictures: the caches keep at most so many pictures.
    """

    method = "training-free"
    uses_whole_text = True

    def __init__(
        self,
        adapter: LMMAdapter,
        segmenter: Segmenter | None,
        profile: Profile | None = None,
        max_cached_pictures: int = 4,
    ) -> None:
        super().__init__(max_cached_pictures)
        self._adapter = adapter
        self._segmenter = segmenter
        self._masks = TrainingFreeMasks(segmenter, profile)
        self._reference_cache: LRUCache[PictureAttention] = LRUCache(max_cached_pictures)

    @property
    def uses_segmenter(self) -> bool:
        return self._segmenter is not None and self._adapter.placeless_reason is None

    def _encode(self, picture: Image.Image) -> PictureEmbeddings:
        assert self._segmenter is not None
        return self._segmenter.encode(picture)

    def needs_references(self, traced_phrases: Sequence[TracedPhrase]) -> bool:
        return any(needs_reference(span, trace) for span, trace in traced_phrases)

    def add_references(
        self, picture: Image.Image, traced_phrases: Sequence[TracedPhrase]
    ) -> Sequence[TracedPhrase]:
        return [
            (span, self._add_reference(picture, trace) if needs_reference(span, trace) else trace)
            for span, trace in traced_phrases
        ]

    def _add_reference(self, picture: Image.Image, trace: Trace) -> Trace:
        def trace_reference() -> PictureAttention:
            exchange = PromptTemplates().build_segment_exchange(_REFERENCE_PHRASE)
            (reference,) = trace_texts(
                self._adapter, [self._adapter.build_prompt(picture, *exchange)]
            )
            return reference.picture_attention

        reference = self._reference_cache.get_or_create(hash_picture(picture), trace_reference)
        return replace(trace, reference=reference)

    @torch.no_grad()
    def predict_batch(self, pictures: Sequence[PicturePhrases]) -> list[tuple[Phrase, ...]]:
        return [self._predict_picture(picture) for picture in pictures]

    def _predict_picture(self, picture: PicturePhrases) -> tuple[Phrase, ...]:
        logits = self._masks.predict_logits(picture.traced_phrases, picture.image_embeddings)
        return tuple(
            build_phrase(span, phrase_logits, picture.options)
            for (span, _), phrase_logits in zip(picture.traced_phrases, logits, strict=True)
        )
