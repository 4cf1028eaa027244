"""Features of pictures for a head: the frozen models run once for all texts and phrases.

Letters: ``P`` phrases, ``K`` maps that the head keeps, ``h w`` image-token grid, ``M`` layers,
``T`` tokens, ``D`` LLM width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flmm.attention.log_probabilities import compute_log_probabilities
from flmm.attention.spans import make_phrase_span
from flmm.attention.trace import Trace
from flmm.attention.tracing import trace_texts
from flmm.data.exchanges import Exchange
from flmm.errors import InputError
from flmm.head.config import HeadConfig
from flmm.head.model import GroundingHead, HeadOutput
from flmm.lmm.base import LMMAdapter
from flmm.lmm.padding import LengthBatcher
from flmm.lmm.prompt import Offsets, Prompt
from flmm.masks.refiner import MaskRefiner, MaskResolution
from flmm.segmenters.prompts import PictureEmbeddings
from flmm.training_free.traced_text import TracedText
from flmm.types import ImageGeometry, PhraseSpan

_MAX_SEQUENCES, _MAX_PADDING = 8, 0.1
"""Of a batch."""


@dataclass(frozen=True)
class PhraseFeatures:
    """The head's input for one phrase."""

    attention: Tensor
    """(K, h, w) float32."""
    hidden_states: Tensor
    """(M, T, D) of the phrase's tokens."""
    log_probabilities: Tensor | None = None
    """(n,), from ``compute_log_probabilities``; None where they are not kept, as for training."""


@dataclass(frozen=True)
class AnswerFeatures:
    """The keyword selector's input for one answer, and its target."""

    hidden_states: Tensor
    """(M, T, D) of all its tokens."""
    groundable: Tensor
    """(T,) float32: 1 for tokens of a phrase."""
    offsets: Offsets = ()
    """(start, end) of each token in the answer; not used in training."""


@dataclass(frozen=True)
class GroundingFeatures:
    """The head's input for one picture."""

    geometry: ImageGeometry
    image_embedding: PictureEmbeddings | None
    """Of this one picture, from SAM's vision encoder; None for a head without a refiner."""
    phrases: tuple[PhraseFeatures, ...]
    """Of all the picture's exchanges, in their order."""
    answers: tuple[AnswerFeatures, ...]
    """Of the fully annotated exchanges; empty for a head without a selector."""


@dataclass(frozen=True)
class PictureExchanges:
    """A picture and its exchanges."""

    picture: Image.Image
    exchanges: tuple[Exchange, ...]


class FeatureExtractor:
    """The frozen LMM and SAM's frozen vision encoder, run for a head.

    Args:
        adapter: the LMM.
        config: says which features; of a head, or of none yet.
        refiner: with SAM's vision encoder; None extracts no image embedding.
    """

    def __init__(
        self, adapter: LMMAdapter, config: HeadConfig, refiner: MaskRefiner | None
    ) -> None:
        self.adapter = adapter
        self.config = config
        self.refiner = refiner if config.refine else None
        self.batcher = LengthBatcher(_MAX_SEQUENCES, _MAX_PADDING)
        """Of the LMM's input tokens; it counts them."""

    @torch.no_grad()
    def extract(self, pictures: Sequence[PictureExchanges]) -> list[GroundingFeatures]:
        """Return each picture's features; the vision tower and SAM's encoder run once for each.

        Every picture needs at least one exchange.

        Raises:
            InputError: a phrase has no token of its own, or the LMM cannot take a prompt.
        """
        prompts = [
            prompt
            for picture in pictures
            # Built together, so that all answers, and all questions, read the picture once, where
            # the LLM can.
            for prompt in self.adapter.build_prompts(
                picture.picture,
                [(exchange.question, exchange.answer) for exchange in picture.exchanges],
            )
        ]
        traces = self._trace_exchanges(
            prompts, [exchange for picture in pictures for exchange in picture.exchanges]
        )
        features = []
        start = 0
        for picture in pictures:
            end = start + len(picture.exchanges)
            features.append(self._picture_features(picture, prompts[start:end], traces[start:end]))
            start = end
        return features

    def _trace_exchanges(
        self, prompts: Sequence[Prompt], exchanges: Sequence[Exchange]
    ) -> list[Trace]:
        traces: dict[int, Trace] = {}
        for in_question in (False, True):
            indices = [
                index
                for index, exchange in enumerate(exchanges)
                if (exchange.answer is None) == in_question
            ]
            with torch.inference_mode():
                found = trace_texts(
                    self.adapter,
                    [prompts[index] for index in indices],
                    "question" if in_question else "answer",
                    self.batcher,
                )
            traces.update(zip(indices, found, strict=True))
        return [traces[index] for index in range(len(prompts))]

    def _picture_features(
        self,
        picture_exchanges: PictureExchanges,
        prompts: Sequence[Prompt],
        traces: Sequence[Trace],
    ) -> GroundingFeatures:
        phrases: list[tuple[Trace, Sequence[int]]] = []
        answers: list[AnswerFeatures] = []
        for exchange, prompt, trace in zip(
            picture_exchanges.exchanges, prompts, traces, strict=True
        ):
            groundable = torch.zeros(len(trace.token_ids))
            for span in find_spans(exchange, prompt):
                groundable[list(span.tokens)] = 1
                phrases.append((trace, span.tokens))
            if exchange.fully_annotated and self.config.selector:
                answers.append(
                    AnswerFeatures(trace.hidden_states.clone(), groundable, _traced_offsets(prompt))
                )
        embedding = None
        if self.refiner is not None:
            embedding = self.refiner.encode(np.asarray(picture_exchanges.picture.convert("RGB")))
        phrase_features = tuple(
            self._phrase_features(*phrase, log_probabilities)
            for phrase, log_probabilities in zip(
                phrases, compute_log_probabilities(self.adapter, phrases), strict=True
            )
        )
        return GroundingFeatures(traces[0].geometry, embedding, phrase_features, tuple(answers))

    def _phrase_features(
        self, trace: Trace, tokens: Sequence[int], log_probabilities: Tensor
    ) -> PhraseFeatures:
        maps = trace.picture_attention.phrase_maps(tokens, self.config.merge)
        selected = self.config.select_maps(maps)
        return PhraseFeatures(selected, trace.hidden_states[:, list(tokens)], log_probabilities)


def find_spans(exchange: Exchange, prompt: Prompt) -> list[PhraseSpan]:
    """Return the spans of an exchange's phrases, with their tokens in its prompt's text.

    Raises:
        InputError: a phrase has no token of its own.
    """
    text = prompt.question if exchange.answer is None else exchange.answer
    spans = [
        make_phrase_span(text, start, end, _traced_offsets(prompt)) for start, end in exchange.spans
    ]
    for span in spans:
        if not span.tokens:
            raise InputError(
                f"the phrase {span.text!r} of {text!r} has no token of its own; leave it out"
            )
    return spans


def trace_exchange(adapter: LMMAdapter, picture: Image.Image, exchange: Exchange) -> TracedText:
    """Return the traced text of an exchange about an RGB picture.

    Raises:
        InputError: a phrase has no token of its own, or the text is too long for the LMM.
    """
    # Alone, since rounding depends on the batch: so masks are exactly those of Grounder.ground.
    prompt = adapter.build_prompt(picture, exchange.question, exchange.answer)
    (trace,) = trace_texts(adapter, [prompt], "question" if exchange.answer is None else "answer")
    return TracedText(picture, prompt, trace, tuple(find_spans(exchange, prompt)))


def predict_masks(
    head: GroundingHead,
    features: GroundingFeatures,
    resolution: MaskResolution = "picture",
    device: torch.device | None = None,
) -> HeadOutput:
    """Return the head's masks of all phrases of one picture, in their order.

    ``device``: the head's, if the features are on another one.
    """
    embedding = features.image_embedding
    output: HeadOutput = head(
        torch.stack([phrase.attention for phrase in features.phrases]).to(device),
        [phrase.hidden_states.to(device) for phrase in features.phrases],
        features.geometry,
        None if embedding is None else embedding.to(device),
        resolution=resolution,
    )
    return output


def stack_score_inputs(phrases: Sequence[PhraseFeatures]) -> tuple[Tensor, list[Tensor]]:
    """Return the attention and log probabilities of phrases for ``GroundingHead.score_phrases``."""
    log_probabilities = []
    for phrase in phrases:
        assert phrase.log_probabilities is not None
        log_probabilities.append(phrase.log_probabilities)
    return torch.stack([phrase.attention for phrase in phrases]), log_probabilities


def _traced_offsets(prompt: Prompt) -> Offsets:
    return prompt.question_offsets if prompt.answer_offsets is None else prompt.answer_offsets
