"""From the phrases of an answer to their masks: the head at work on a picture.

Letters: ``M`` layers, ``T`` tokens of an answer, ``P`` phrases, ``H W`` picture size.
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
from flmm.stopwatch import Stopwatch
from flmm.types import PhraseSpan, Size

# Logits at picture size are made for so many phrases at a time that they stay below 128 MiB.
_MAX_LOGITS_PER_PASS = 2**25

TracedPhrase = tuple[PhraseSpan, Trace]
"""A phrase, and the trace of the answer that its tokens are counted in."""


@dataclass(frozen=True, eq=False)
class PicturePhrases:
    """Phrases about one picture."""

    traced_phrases: Sequence[TracedPhrase]
    image_embeddings: Tensor | None = None
    """The picture's, from ``PhraseMasks.embed``; None leaves out the mask refiner."""


MaskMethod = Literal["head", "kmeans"]
"""What makes the masks of the attention maps: the trained head, or, to compare with, clusters."""


class MaskPredictor:
    """A head that grounds phrases and remembers the pictures that its refiner saw last.

    Args:
        head: as it is.
        remembered: how many pictures.
    """

    def __init__(self, head: GroundingHead, max_cached_pictures: int = 4) -> None:
        self._head = head
        self._embedding_cache: LRUCache[Tensor] = LRUCache(max_cached_pictures)

    def predict(
        self,
        picture: Image.Image,
        traced_phrases: Sequence[TracedPhrase],
        refine: bool,
        stopwatch: Stopwatch,
        method: MaskMethod = "head",
    ) -> tuple[Phrase, ...]:
        """The phrases with their masks, boxes and scores.

        Args:
            picture: RGB.
            said: phrases about that picture, each with the trace of its own answer.
            refine: False leaves out the mask refiner.
            watch: is told of the stages "picture embedding" and "masks".
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
    def embed_picture(self, picture: Image.Image, stopwatch: Stopwatch) -> Tensor | None:
        """SAM's embedding of the picture, remembered for the next questions about it; None where
        the head does not refine."""
        if not self._head.config.refine:
            return None
        with stopwatch.stage("picture embedding"):
            key = blake2b(picture.tobytes(), person=repr(picture.size).encode()[:16]).digest()
            make = functools.partial(self._head.refiner.encode, np.asarray(picture))
            return self._embedding_cache.get_or_create(key, make)

    def predict_with_embeddings(
        self,
        traced_phrases: Sequence[TracedPhrase],
        image_embeddings: Tensor | None,
        stopwatch: Stopwatch,
    ) -> tuple[Phrase, ...]:
        """``ground`` with the picture's embedding at hand; None leaves out the mask refiner."""
        with stopwatch.stage("masks"):
            return self.predict_batch([PicturePhrases(traced_phrases, image_embeddings)])[0]

    @torch.no_grad()
    def predict_batch(self, pictures: Sequence[PicturePhrases]) -> list[tuple[Phrase, ...]]:
        """The phrases of several pictures in one pass; each is what it would be alone.

        Args:
            shown: pictures of one geometry, all with embeddings or none.
        """
        every = [
            (index, *said) for index, one in enumerate(pictures) for said in one.traced_phrases
        ]
        found: list[list[Phrase]] = [[] for _ in pictures]
        at_once = max_phrases_per_pass(every[0][2].geometry.picture) if every else 1
        for first in range(0, len(every), at_once):
            chosen = every[first : first + at_once]
            logits = self._compute_logits(chosen, pictures).cpu()
            for (index, span, _), mask in zip(chosen, logits, strict=True):
                found[index].append(_build_phrase(span, mask))
        return [tuple(phrases) for phrases in found]

    def _compute_logits(
        self,
        indexed_phrases: Sequence[tuple[int, PhraseSpan, Trace]],
        pictures: Sequence[PicturePhrases],
    ) -> Tensor:
        """(P, H, W) logits of phrases, each with the index of its picture."""
        config, geometry = self._head.config, indexed_phrases[0][2].geometry
        maps = [
            trace.picture_attention.phrase_maps(span.tokens, config.merge)
            for _, span, trace in indexed_phrases
        ]
        attention = torch.stack([config.select_maps(one) for one in maps])
        seen = sorted({index for index, _, _ in indexed_phrases})
        embeddings = [
            one for index in seen if (one := pictures[index].image_embeddings) is not None
        ]
        if not embeddings:
            decoded = self._head.mask_decoder(attention)[:, 0]
            return resize_to_picture(crop_to_picture(decoded, geometry), geometry)
        states = [trace.hidden_states[:, list(span.tokens)] for _, span, trace in indexed_phrases]
        picture_indices = torch.tensor([seen.index(index) for index, _, _ in indexed_phrases])
        refined: Tensor = self._head(
            attention, states, geometry, torch.cat(embeddings), picture_indices.to(attention.device)
        ).refined_logits
        return refined


def max_phrases_per_pass(picture_size: Size) -> int:
    """Of how many phrases the logits are made together at the picture's size: 128 MiB of them."""
    height, width = picture_size
    return max(_MAX_LOGITS_PER_PASS // (height * width), 1)


def _compute_cluster_logits(span: PhraseSpan, trace: Trace) -> Tensor:
    """(H, W) logits of being in the attended cluster, between image tokens in proportion."""
    cluster = compute_kmeans_mask(trace.picture_attention.phrase_maps(span.tokens)).float()
    sides = crop_to_picture(2 * cluster[None] - 1, trace.geometry)
    return ((resize_to_picture(sides, trace.geometry)[0] + 1) / 2).logit(eps=1e-4)


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
    """How sure a mask is of itself, from (H, W) logits: the mean probability of its pixels.

    Those have more than 0.5 each; an empty mask has 0.
    """
    mask = logits > 0
    return float(logits[mask].sigmoid().mean()) if mask.any() else 0.0
