"""Evaluation of masks without a head on given texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from flmm.attention.trace import TracedPhrase
from flmm.attention.tracing import trace_texts
from flmm.data.exchanges import Exchange, ReferringProtocol
from flmm.data.features import PictureExchanges, find_spans
from flmm.evaluate.predictions import Prediction
from flmm.evaluate.teacher_forcing import TeacherForcedEvaluator
from flmm.grounding.mask_predictor import MaskPredictor
from flmm.head.prompt_templates import PromptTemplates
from flmm.lmm.base import LMMAdapter
from flmm.stopwatch import Stopwatch


@dataclass(frozen=True, eq=False)
class TracedExchanges:
    """A picture and the traced phrases of each of its exchanges."""

    picture: Image.Image
    traced_phrases: tuple[tuple[TracedPhrase, ...], ...]


class TrainingFreeEvaluator(TeacherForcedEvaluator[TracedExchanges]):
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
    def extract(self, pictures: Sequence[PictureExchanges]) -> list[TracedExchanges]:
        return [
            TracedExchanges(
                picture.picture.convert("RGB"),
                tuple(
                    self._trace_exchange(picture.picture, exchange)
                    for exchange in picture.exchanges
                ),
            )
            for picture in pictures
        ]

    def _trace_exchange(self, picture: Image.Image, exchange: Exchange) -> tuple[TracedPhrase, ...]:
        # Alone, since rounding depends on the batch: so masks are exactly those of Grounder.ground.
        prompt = self.adapter.build_prompt(picture, exchange.question, exchange.answer)
        (trace,) = trace_texts(
            self.adapter, [prompt], "question" if exchange.answer is None else "answer"
        )
        return tuple((span, trace) for span in find_spans(exchange, prompt))

    def predict(self, extracted: TracedExchanges) -> list[Prediction]:
        return [
            Prediction(torch.from_numpy(phrase.mask), None, phrase.score)
            for traced_phrases in extracted.traced_phrases
            for phrase in self.mask_predictor.predict(
                extracted.picture, traced_phrases, True, Stopwatch()
            )
        ]
