"""Evaluation of a trained head on given texts.

Letters: ``P`` phrases, ``H W`` picture size.
"""

from collections.abc import Sequence
from dataclasses import replace

from flmm.data.exchanges import Exchange, ReferringProtocol
from flmm.data.features import (
    FeatureExtractor,
    GroundingFeatures,
    PictureExchanges,
    predict_masks,
    stack_score_inputs,
)
from flmm.evaluate.metrics import count_spans
from flmm.evaluate.predictions import IndexedSample, Prediction
from flmm.evaluate.rows import SelectorRow
from flmm.evaluate.teacher_forcing import TeacherForcedEvaluator
from flmm.grounding.head_mask_predictor import max_phrases_per_pass
from flmm.head.model import GroundingHead
from flmm.lmm.base import LMMAdapter
from flmm.masks.mean_probability import compute_mean_probability
from flmm.masks.selector import select_phrases
from flmm.pictures.geometry import resize_to_picture


class HeadEvaluator(TeacherForcedEvaluator[GroundingFeatures]):
    """Evaluates a head on given texts.

    Args:
        adapter: the head's LMM.
        head: on the LMM's device.
        dataset, protocol: as in ``TeacherForcedEvaluator``.
    """

    def __init__(
        self, adapter: LMMAdapter, head: GroundingHead, dataset: str, protocol: ReferringProtocol
    ) -> None:
        super().__init__(head.config.prompt_templates, dataset, protocol)
        self.head = head
        self.extractor = FeatureExtractor(adapter, head.config, head.refiner)

    def extract(self, pictures: Sequence[PictureExchanges]) -> list[GroundingFeatures]:
        return self.extractor.extract(pictures)

    def predict(self, extracted: GroundingFeatures) -> list[Prediction]:
        return _predict_masks(self.head, extracted)

    def selector_rows(
        self, sample: IndexedSample, exchanges: Sequence[Exchange], extracted: GroundingFeatures
    ) -> list[SelectorRow]:
        if self.head.selector is None:
            return []
        captions = [exchange for exchange in exchanges if exchange.fully_annotated]
        rows = []
        for exchange, answer in zip(captions, extracted.answers, strict=True):
            assert exchange.answer is not None
            selected = select_phrases(
                exchange.answer,
                answer.offsets,
                self.head.keyword_logits(answer.hidden_states),
                self.head.config.selector_threshold,
            )
            counts = count_spans(selected, exchange.spans)
            text = sample.loaded.texts[exchange.phrase_indices[0][0]].text
            rows.append(
                SelectorRow(
                    self.dataset, sample.index, sample.picture, text.identity,
                    counts.hits, counts.chosen, counts.wanted,
                )
            )  # fmt: skip
        return rows


def _predict_masks(head: GroundingHead, features: GroundingFeatures) -> list[Prediction]:
    """Predict the masks of all phrases, as many at a time as fit into memory."""
    batch_size = max_phrases_per_pass(features.geometry.picture)
    predictions = []
    for start in range(0, len(features.phrases), batch_size):
        phrases = features.phrases[start : start + batch_size]
        output = predict_masks(head, replace(features, phrases=phrases))
        scores = head.score_phrases(*stack_score_inputs(phrases), output, features.geometry)
        decoded = (resize_to_picture(output.mask_logits, features.geometry) > 0).cpu()
        for logits, decoder, score in zip(
            output.refined_logits.cpu(), decoded, scores, strict=True
        ):
            refined = logits > 0
            if score is None or not refined.any():
                score = compute_mean_probability(logits)
            predictions.append(Prediction(refined, decoder, score))
    return predictions
