"""Evaluation of masks without a head on given texts."""

from collections.abc import Sequence

import torch

from flmm.data.exchanges import ReferringProtocol
from flmm.data.features import PictureExchanges, trace_exchange
from flmm.evaluate.predictions import Prediction
from flmm.evaluate.teacher_forcing import TeacherForcedEvaluator
from flmm.grounding.mask_options import DEFAULT_MASK_OPTIONS
from flmm.grounding.mask_predictor import MaskPredictor
from flmm.head.prompt_templates import PromptTemplates
from flmm.lmm.base import LMMAdapter
from flmm.stopwatch import Stopwatch
from flmm.training_free.traced_text import TracedText


class TrainingFreeEvaluator(TeacherForcedEvaluator[tuple[TracedText, ...]]):
    """Evaluates masks without a head, each exchange as ``Grounder.ground`` grounds its text.

    Args:
        adapter: the LMM.
        mask_predictor: without a head.
        dataset, protocol: as in ``TeacherForcedEvaluator``.
    """

    def __init__(
        self,
        adapter: LMMAdapter,
        mask_predictor: MaskPredictor,
        dataset: str,
        protocol: ReferringProtocol,
    ) -> None:
        super().__init__(PromptTemplates(), dataset, protocol)
        self.adapter = adapter
        self.mask_predictor = mask_predictor

    @torch.no_grad()
    def extract(self, pictures: Sequence[PictureExchanges]) -> list[tuple[TracedText, ...]]:
        return [
            tuple(
                trace_exchange(self.adapter, of_picture.picture, exchange)
                for exchange in of_picture.exchanges
            )
            for of_picture in pictures
        ]

    def predict(self, extracted: tuple[TracedText, ...]) -> list[Prediction]:
        predictions: list[Prediction] = []
        for text in extracted:
            traced_phrases = self.mask_predictor.add_references(
                text.picture, [(span, text.trace) for span in text.spans]
            )
            predictions.extend(
                Prediction(torch.from_numpy(phrase.mask), None, phrase.score)
                for phrase in self.mask_predictor.predict(
                    text.picture, traced_phrases, DEFAULT_MASK_OPTIONS, Stopwatch()
                )
            )
        return predictions
