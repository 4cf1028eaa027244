"""From the phrases of an answer to their masks: the head applied to a picture.

Letters: ``P`` phrases, ``H W`` picture size.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flmm.answers.answer import Phrase
from flmm.attention.trace import Trace
from flmm.head.model import GroundingHead
from flmm.lru_cache import LRUCache
from flmm.masks.kmeans import compute_kmeans_mask
from flmm.pictures.geometry import crop_to_picture, mask_box, resize_to_picture
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.stopwatch import Stopwatch
from flmm.types import PhraseSpan, Size

# Limits the float32 logits at picture size of one pass to 128 MiB.
_MAX_LOGITS_PER_PASS = 2**25

TracedPhrase = tuple[PhraseSpan, Trace]
"""A phrase and the trace of the answer that its tokens index."""


@dataclass(frozen=True, eq=False)
class PicturePhrases:
    """Traced phrases of one picture."""

    traced_phrases: Sequence[TracedPhrase]
    image_embeddings: PictureEmbeddings | None = None
    """From ``MaskPredictor.embed_picture``; None leaves out the refiner."""


MaskMethod = Literal["head", "kmeans"]
"""What turns attention maps into masks: the trained head or, as a baseline, K-means."""


class MaskPredictor:
    """A head that predicts phrases' masks, with a cache of the last pictures' embeddings.

    Args:
        head: used as it is.
        max_cached_pictures: the cache keeps at most so many pictures.
    """

    def __init__(self, head: GroundingHead, max_cached_pictures: int = 4) -> None:
        self._head = head
        self._embedding_cache: LRUCache[PictureEmbeddings] = LRUCache(max_cached_pictures)

    def predict(
        self,
        picture: Image.Image,
        traced_phrases: Sequence[TracedPhrase],
        refine: bool,
        stopwatch: Stopwatch,
        method: MaskMethod = "head",
    ) -> tuple[Phrase, ...]:
        """Return the phrases with their masks, boxes and scores.

        Args:
            picture: RGB.
            traced_phrases: phrases about that picture, each with the trace of its own answer.
            refine: False leaves out the mask refiner.
            stopwatch: measures the stages "picture embedding" and "masks".
            method: "kmeans" leaves out the head.
        """
        if method == "kmeans":
            with stopwatch.stage("masks"):
                return tuple(
                    _build_phrase(span, _compute_cluster_logits(span, trace))
                    for span, trace in traced_phrases
                )
        embeddings = self.embed_picture(picture, stopwatch) if refine and traced_phrases else None
        return self.predict_with_embeddings(traced_phrases, embeddings, stopwatch)

    @torch.no_grad()
    def embed_picture(self, picture: Image.Image, stopwatch: Stopwatch) -> PictureEmbeddings | None:
        """Return SAM's embedding of the picture, cached for the next requests about it; None where
        the head has no refiner."""
        if not self._head.config.refine:
            return None
        with stopwatch.stage("picture embedding"):
            key = blake2b(picture.tobytes(), person=repr(picture.size).encode()[:16]).digest()
            encode = functools.partial(self._head.refiner.encode, np.asarray(picture))
            return self._embedding_cache.get_or_create(key, encode)

    def predict_with_embeddings(
        self,
        traced_phrases: Sequence[TracedPhrase],
        image_embeddings: PictureEmbeddings | None,
        stopwatch: Stopwatch,
    ) -> tuple[Phrase, ...]:
        """Predict like ``predict``, from the picture's embedding; None leaves out the refiner."""
        with stopwatch.stage("masks"):
            return self.predict_batch([PicturePhrases(traced_phrases, image_embeddings)])[0]

    @torch.no_grad()
    def predict_batch(self, pictures: Sequence[PicturePhrases]) -> list[tuple[Phrase, ...]]:
        """Return the phrases of several pictures, predicted together; each as if predicted alone.

        Args:
            pictures: of one geometry, all with embeddings or none.
        """
        indexed_phrases = [
            (index, span, trace)
            for index, picture in enumerate(pictures)
            for span, trace in picture.traced_phrases
        ]
        results: list[list[Phrase]] = [[] for _ in pictures]
        pass_size = 1
        if indexed_phrases:
            pass_size = max_phrases_per_pass(indexed_phrases[0][2].geometry.picture)
        for first in range(0, len(indexed_phrases), pass_size):
            in_pass = indexed_phrases[first : first + pass_size]
            logits = self._compute_logits(in_pass, pictures).cpu()
            for (index, span, _), phrase_logits in zip(in_pass, logits, strict=True):
                results[index].append(_build_phrase(span, phrase_logits))
        return [tuple(phrases) for phrases in results]

    def _compute_logits(
        self,
        indexed_phrases: Sequence[tuple[int, PhraseSpan, Trace]],
        pictures: Sequence[PicturePhrases],
    ) -> Tensor:
        """Return (P, H, W) mask logits of phrases, each with the index of its picture."""
        config, geometry = self._head.config, indexed_phrases[0][2].geometry
        maps = [
            trace.picture_attention.phrase_maps(span.tokens, config.merge)
            for _, span, trace in indexed_phrases
        ]
        attention = torch.stack([config.select_maps(phrase_maps) for phrase_maps in maps])
        used = sorted({index for index, _, _ in indexed_phrases})
        embeddings = [
            embedding
            for index in used
            if (embedding := pictures[index].image_embeddings) is not None
        ]
        if not embeddings:
            decoded = self._head.mask_decoder(attention)[:, 0]
            return resize_to_picture(crop_to_picture(decoded, geometry), geometry)
        states = [trace.hidden_states[:, list(span.tokens)] for _, span, trace in indexed_phrases]
        picture_indices = torch.tensor([used.index(index) for index, _, _ in indexed_phrases])
        refined: Tensor = self._head(
            attention,
            states,
            geometry,
            PictureEmbeddings.concatenate(embeddings),
            picture_indices.to(attention.device),
        ).refined_logits
        return refined


def max_phrases_per_pass(picture_size: Size) -> int:
    """Return how many phrases' float32 logits at picture size fit in 128 MiB, at least 1."""
    height, width = picture_size
    return max(_MAX_LOGITS_PER_PASS // (height * width), 1)


def _compute_cluster_logits(span: PhraseSpan, trace: Trace) -> Tensor:
    """Return (H, W) logits of the attended cluster, interpolated between image tokens."""
    cluster = compute_kmeans_mask(trace.picture_attention.phrase_maps(span.tokens)).float()
    signs = crop_to_picture(2 * cluster[None] - 1, trace.geometry)
    return ((resize_to_picture(signs, trace.geometry)[0] + 1) / 2).logit(eps=1e-4)


def _build_phrase(span: PhraseSpan, logits: Tensor) -> Phrase:
    mask = logits > 0
    return Phrase(
        text=span.text,
        start=span.start,
        end=span.end,
        tokens=span.tokens,
        mask=mask.numpy(),
        box=mask_box(mask) or (0, 0, 0, 0),
        score=mask_score(logits),
    )


def mask_score(logits: Tensor) -> float:
    """Return the mean probability of a mask's pixels, from (H, W) logits.

    Each pixel's is above 0.5; an empty mask scores 0.
    """
    mask = logits > 0
    return float(logits[mask].sigmoid().mean()) if mask.any() else 0.0
