"""From the phrases of an answer to their masks; what predicts them is a head or needs no training.

Letters: ``P`` phrases, ``H W`` picture size.
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor

from flmm.answers.phrase import Phrase
from flmm.answers.run_lengths import encode_rle
from flmm.attention.trace import Trace, TracedPhrase
from flmm.grounding.mask_options import DEFAULT_MASK_OPTIONS, MaskOptions
from flmm.lru_cache import LRUCache
from flmm.masks.kmeans import compute_kmeans_mask
from flmm.masks.low_resolution import LowResolutionLogits
from flmm.masks.mean_probability import compute_mean_probability
from flmm.masks.small_regions import remove_small_regions
from flmm.pictures.geometry import crop_to_picture, mask_box, resize_to_picture
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.stopwatch import Stopwatch
from flmm.types import ImageGeometry, PhraseSpan

MaskMethod = Literal["head", "training-free", "kmeans"]
"""What turns attention maps into masks: a trained head, the method without one or, as a baseline,
K-means."""

_HASHED_ROWS = 256
"""At once, since their bytes are a copy."""


@dataclass(frozen=True, eq=False)
class PicturePhrases:
    """Traced phrases of one picture."""

    traced_phrases: Sequence[TracedPhrase]
    image_embeddings: PictureEmbeddings | None = None
    """From ``MaskPredictor.embed_picture``; None leaves out SAM."""
    options: MaskOptions = DEFAULT_MASK_OPTIONS


class MaskPredictor(ABC):
    """A predictor of phrases' masks, with a cache of the last pictures' embeddings.

    Args:
        max_cached_pictures: the cache keeps at most so many pictures.
    """

    method: ClassVar[MaskMethod]
    """How masks are predicted unless K-means is asked for."""
    uses_whole_text: ClassVar[bool]
    """Whether a phrase's mask depends on the text's other tokens and phrases too: then masks that
    are predicted before the text is complete are preliminary."""

    def __init__(self, max_cached_pictures: int = 4) -> None:
        self._embedding_cache: LRUCache[PictureEmbeddings] = LRUCache(max_cached_pictures)

    @property
    @abstractmethod
    def uses_segmenter(self) -> bool:
        """Whether there is a SAM that masks come from; if not, no picture is embedded."""

    @property
    def has_calibrated_scores(self) -> bool:
        """Whether scores are probabilities that phrases are in the picture."""
        return False

    @abstractmethod
    def _encode(self, picture: Image.Image) -> PictureEmbeddings:
        """Return SAM's embedding of one RGB picture."""

    @abstractmethod
    def predict_batch(self, pictures: Sequence[PicturePhrases]) -> list[tuple[Phrase, ...]]:
        """Return the phrases of several pictures, predicted together; each as if predicted alone.

        Args:
            pictures: of one geometry, all with embeddings or none.
        """

    def predict(
        self,
        picture: Image.Image,
        traced_phrases: Sequence[TracedPhrase],
        options: MaskOptions,
        stopwatch: Stopwatch,
        method: MaskMethod | None = None,
    ) -> tuple[Phrase, ...]:
        """Return the phrases with their masks, boxes and scores.

        Args:
            picture: RGB.
            traced_phrases: phrases about that picture, each with the trace of its own answer, with
                references (``add_references``) unless ``method`` is "kmeans".
            options: of the masks; all phrases are returned, whatever their score.
            stopwatch: measures the stages "picture embedding" and "masks".
            method: "kmeans" for this baseline; else the predictor's own.
        """
        if method == "kmeans":
            with stopwatch.stage("masks"):
                return tuple(
                    build_phrase(span, _compute_cluster_signs(span, trace), options)
                    for span, trace in traced_phrases
                )
        embeddings = None
        if options.refine and traced_phrases:
            embeddings = self.embed_picture(picture, stopwatch)
        return self.predict_with_embeddings(traced_phrases, embeddings, options, stopwatch)

    @torch.no_grad()
    def embed_picture(self, picture: Image.Image, stopwatch: Stopwatch) -> PictureEmbeddings | None:
        """Return SAM's embedding of the picture, cached for the next requests about it; None where
        there is no SAM."""
        if not self.uses_segmenter:
            return None
        with stopwatch.stage("picture embedding"):
            encode = functools.partial(self._encode, picture)
            return self._embedding_cache.get_or_create(hash_picture(picture), encode)

    def needs_references(self, traced_phrases: Sequence[TracedPhrase]) -> bool:
        """Return whether ``add_references`` has anything to add to a picture's phrases."""
        del traced_phrases
        return False

    def add_references(
        self, picture: Image.Image, traced_phrases: Sequence[TracedPhrase]
    ) -> Sequence[TracedPhrase]:
        """Return the phrases of an RGB picture with ``Trace.reference`` where it is needed.

        Call it with all phrases of a complete text before their masks are predicted. The LMM may
        run, so call it where the LMM runs, and not within a recording.
        """
        del picture
        return traced_phrases

    def predict_with_embeddings(
        self,
        traced_phrases: Sequence[TracedPhrase],
        image_embeddings: PictureEmbeddings | None,
        options: MaskOptions,
        stopwatch: Stopwatch,
    ) -> tuple[Phrase, ...]:
        """Predict like ``predict``, from the picture's embedding; None leaves out SAM."""
        with stopwatch.stage("masks"):
            pictures = [PicturePhrases(traced_phrases, image_embeddings, options)]
            return self.predict_batch(pictures)[0]


def hash_picture(picture: Image.Image) -> bytes:
    """Return a key of the picture's size and pixels for caches."""
    digest = blake2b(person=repr(picture.size).encode()[:16])
    for first in range(0, picture.height, _HASHED_ROWS):
        last = min(first + _HASHED_ROWS, picture.height)
        digest.update(picture.crop((0, first, picture.width, last)).tobytes())
    return digest.digest()


def _compute_cluster_signs(span: PhraseSpan, trace: Trace) -> LowResolutionLogits:
    """Return 1 in the attended cluster and -1 outside; logits are interpolated between these."""
    cluster = compute_kmeans_mask(trace.picture_attention.phrase_maps(span.tokens)).float()
    signs = crop_to_picture(2 * cluster[None] - 1, trace.geometry)
    return LowResolutionLogits(signs, functools.partial(_enlarge_signs, geometry=trace.geometry))


def _enlarge_signs(signs: Tensor, geometry: ImageGeometry) -> Tensor:
    return ((resize_to_picture(signs, geometry) + 1) / 2).logit(eps=1e-4)


def build_phrase(
    span: PhraseSpan,
    low_resolution: LowResolutionLogits,
    options: MaskOptions,
    score: float | None = None,
    logits: Tensor | None = None,
) -> Phrase:
    """Return a phrase with the mask of its logits.

    Args:
        span: the phrase.
        low_resolution: its logits, (1, a, b).
        options: of the mask.
        score: of its mask if that is not empty; None for the mean probability inside it.
        logits: the same at the picture's size, (H, W), on the CPU; None computes them.
    """
    if logits is None:
        logits = low_resolution.to_picture()[0].cpu()
    threshold = math.log(options.mask_threshold / (1 - options.mask_threshold))
    pixels = remove_small_regions((logits > threshold).numpy(), options.min_mask_region_area)
    mask = torch.from_numpy(pixels)
    if score is None or not mask.any():
        score = compute_mean_probability(logits, mask)
    return Phrase(
        text=span.text,
        start=span.start,
        end=span.end,
        tokens=span.tokens,
        rle=encode_rle(pixels),
        box=mask_box(mask) or (0, 0, 0, 0),
        score=score,
        logits=low_resolution.copy_to_cpu(),
    )
