"""Masks by a trained head.

Letters: ``P`` phrases, ``H W`` picture size.
"""

from collections.abc import Sequence

import torch
from PIL import Image

from flmm.answers.phrase import Phrase
from flmm.attention.log_probabilities import compute_log_probabilities
from flmm.attention.trace import Trace
from flmm.grounding.mask_predictor import MaskPredictor, PicturePhrases, build_phrase
from flmm.head.model import GroundingHead, HeadOutput
from flmm.lmm.base import LMMAdapter
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.types import PhraseSpan, Size

# Limits the float32 logits at picture size of one pass to 128 MiB.
_MAX_LOGITS_PER_PASS = 2**25


class HeadMaskPredictor(MaskPredictor):
    """A head that predicts phrases' masks.

    Args:
        adapter: the LMM, for the scores.
        head: used as it is.
        max_cached_pictures: the cache keeps at most so many pictures.
    """

    method = "head"
    uses_whole_text = False

    def __init__(
        self, adapter: LMMAdapter, head: GroundingHead, max_cached_pictures: int = 4
    ) -> None:
        super().__init__(max_cached_pictures)
        self._adapter = adapter
        self._head = head

    @property
    def uses_segmenter(self) -> bool:
        return self._head.config.refine

    @property
    def has_calibrated_scores(self) -> bool:
        return self._head.config.score_calibration is not None

    def _encode(self, picture: Image.Image) -> PictureEmbeddings:
        return self._head.refiner.encode(picture)

    @torch.no_grad()
    def predict_batch(self, pictures: Sequence[PicturePhrases]) -> list[tuple[Phrase, ...]]:
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
            phrases = self._predict_pass(in_pass, pictures)
            for (index, _, _), phrase in zip(in_pass, phrases, strict=True):
                results[index].append(phrase)
        return [tuple(phrases) for phrases in results]

    def _predict_pass(
        self,
        indexed_phrases: Sequence[tuple[int, PhraseSpan, Trace]],
        pictures: Sequence[PicturePhrases],
    ) -> list[Phrase]:
        """Return the phrases, each of which comes with the index of its picture."""
        output, scores = self._predict_logits(indexed_phrases, pictures)
        assert output.low_resolution is not None
        logits = output.refined_logits.cpu()
        return [
            build_phrase(
                span,
                output.low_resolution.of_phrase(number),
                pictures[index].options,
                scores[number],
                logits[number],
            )
            for number, (index, span, _) in enumerate(indexed_phrases)
        ]

    def _predict_logits(
        self,
        indexed_phrases: Sequence[tuple[int, PhraseSpan, Trace]],
        pictures: Sequence[PicturePhrases],
    ) -> tuple[HeadOutput, list[float | None]]:
        """Return the masks and the scores, which are None without a calibration."""
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
            output = self._head.decode(attention, geometry)
        else:
            states = [
                trace.hidden_states[:, list(span.tokens)] for _, span, trace in indexed_phrases
            ]
            picture_indices = torch.tensor([used.index(index) for index, _, _ in indexed_phrases])
            output = self._head(
                attention,
                states,
                geometry,
                PictureEmbeddings.concatenate(embeddings),
                picture_indices.to(attention.device),
            )
        if config.score_calibration is None:
            return output, [None] * len(indexed_phrases)
        log_probabilities = compute_log_probabilities(
            self._adapter, [(trace, span.tokens) for _, span, trace in indexed_phrases]
        )
        return output, self._head.score_phrases(attention, log_probabilities, output, geometry)


def max_phrases_per_pass(picture_size: Size) -> int:
    """Return how many phrases' float32 logits at picture size fit in 128 MiB, at least 1."""
    height, width = picture_size
    return max(_MAX_LOGITS_PER_PASS // (height * width), 1)
