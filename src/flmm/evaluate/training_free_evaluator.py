"""Evaluation of masks without a head on given texts."""

from collections.abc import Sequence

import torch
from PIL import Image

from flmm.attention.tracing import trace_texts
from flmm.data.exchanges import Exchange, ReferringProtocol
from flmm.data.features import PictureExchanges, find_spans
from flmm.evaluate.predictions import Prediction
from flmm.evaluate.teacher_forcing import TeacherForcedEvaluator
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
        texts = []
        for of_picture in pictures:
            picture = of_picture.picture.convert("RGB")
            exchanges = of_picture.exchanges
            texts.append(
                tuple(trace_exchange(self.adapter, picture, exchange) for exchange in exchanges)
            )
        return texts

    def predict(self, extracted: tuple[TracedText, ...]) -> list[Prediction]:
        return [
            Prediction(torch.from_numpy(phrase.mask), None, phrase.score)
            for text in extracted
            for phrase in self.mask_predictor.predict(
                text.picture, [(span, text.trace) for span in text.spans], True, Stopwatch()
            )
        ]


def trace_exchange(adapter: LMMAdapter, picture: Image.Image, exchange: Exchange) -> TracedText:
    """Return the traced text of an exchange about an RGB picture.

    Raises:
        InputError: a phrase has no token of its own, or the text is too long for the LMM.
    """
    # Alone, since rounding depends on the batch: so masks are exactly those of Grounder.ground.
    prompt = adapter.build_prompt(picture, exchange.question, exchange.answer)
    (trace,) = trace_texts(adapter, [prompt], "question" if exchange.answer is None else "answer")
    return TracedText(picture, prompt, trace, tuple(find_spans(exchange, prompt)))
