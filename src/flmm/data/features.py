"""What a head sees of pictures: the frozen models run once for all their texts and phrases.

Letters: ``P`` phrases, ``K`` maps that the head keeps, ``h w`` image-token grid, ``M`` layers,
``T`` tokens, ``D`` LLM width, ``C`` SAM's width, ``e`` side of SAM's image embedding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flmm.attention.spans import make_phrase_span
from flmm.attention.trace import Trace
from flmm.attention.tracing import trace_texts
from flmm.data.exchanges import Exchange
from flmm.errors import InputError
from flmm.head.model import GroundingHead, HeadOutput
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import Offsets, Prompt
from flmm.masks.refiner import MaskResolution
from flmm.types import ImageGeometry

MAX_PADDING = 0.1
"""Share of a batch's tokens that may be padding (issue: under 10 %)."""
_MAX_SEQUENCES_PER_BATCH = 8


@dataclass(frozen=True)
class PhraseFeatures:
    """What the head sees of one phrase."""

    attention: Tensor
    """(K, h, w) float32."""
    hidden_states: Tensor
    """(M, T, D) of the phrase's tokens."""


@dataclass(frozen=True)
class AnswerFeatures:
    """What the keyword selector sees of one answer, and what it should say."""

    hidden_states: Tensor
    """(M, T, D) of all its tokens."""
    groundable: Tensor
    """(T,) float32: 1 for tokens of a phrase."""
    offsets: Offsets = ()
    """Where each token stands in the answer; training has no use for it."""


@dataclass(frozen=True)
class GroundingFeatures:
    """What the head sees of one picture."""

    geometry: ImageGeometry
    image_embedding: Tensor | None
    """(C, e, e) from SAM's vision encoder; None for a head that does not refine."""
    phrases: tuple[PhraseFeatures, ...]
    """Of the picture's exchanges, one after the other."""
    answers: tuple[AnswerFeatures, ...]
    """Of the exchanges that name all, for a head with a selector."""


@dataclass(frozen=True)
class PictureExchanges:
    """A picture and what the LMM is asked about it."""

    picture: Image.Image
    exchanges: tuple[Exchange, ...]


@dataclass
class PaddingStats:
    """How much of what the LMM read was padding."""

    num_tokens: int = 0
    num_padded_tokens: int = 0

    @property
    def share(self) -> float:
        """In 0..1."""
        return 1 - self.num_tokens / self.num_padded_tokens if self.num_padded_tokens else 0.0


def batch_by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Which sequences share a batch: of like length, so that at most a tenth is padding."""
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
        length = lengths[index]
        padded = length * (len(batch) + 1)
        if (
            len(batch) == _MAX_SEQUENCES_PER_BATCH
            or padded - tokens - length > MAX_PADDING * padded
        ):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += length
    if batch:
        yield batch


class FeatureExtractor:
    """Runs the frozen LMM and SAM's frozen vision encoder for a head.

    ``padding`` counts what the LMM was given.
    """

    def __init__(self, adapter: LMMAdapter, head: GroundingHead) -> None:
        self.adapter = adapter
        self.head = head
        self.padding_stats = PaddingStats()

    @torch.no_grad()
    def extract(self, pictures: Sequence[PictureExchanges]) -> list[GroundingFeatures]:
        """Features of every picture; its vision tower and SAM's encoder run once each.

        Every picture has at least one exchange.

        Raises:
            InputError: a phrase has no token of its own, or the LMM cannot be asked this.
        """
        prompts = [
            self.adapter.build_prompt(asked.picture, exchange.question, exchange.answer)
            for asked in pictures
            for exchange in asked.exchanges
        ]
        traces = self._trace_exchanges(
            prompts, [exchange for asked in pictures for exchange in asked.exchanges]
        )
        found = []
        first = 0
        for asked in pictures:
            last = first + len(asked.exchanges)
            found.append(self._picture_features(asked, prompts[first:last], traces[first:last]))
            first = last
        return found

    def _trace_exchanges(
        self, prompts: Sequence[Prompt], exchanges: Sequence[Exchange]
    ) -> list[Trace]:
        traces: dict[int, Trace] = {}
        for in_question in (False, True):
            chosen = [i for i, one in enumerate(exchanges) if (one.answer is None) == in_question]
            lengths = [prompts[index].length for index in chosen]
            for batch in batch_by_length(lengths):
                members = [chosen[index] for index in batch]
                self.padding_stats.num_tokens += sum(lengths[index] for index in batch)
                self.padding_stats.num_padded_tokens += max(
                    lengths[index] for index in batch
                ) * len(batch)
                with torch.inference_mode():
                    made = trace_texts(
                        self.adapter,
                        [prompts[index] for index in members],
                        "question" if in_question else "answer",
                    )
                traces.update(zip(members, made, strict=True))
        return [traces[index] for index in range(len(prompts))]

    def _picture_features(
        self,
        picture_exchanges: PictureExchanges,
        prompts: Sequence[Prompt],
        traces: Sequence[Trace],
    ) -> GroundingFeatures:
        phrases: list[PhraseFeatures] = []
        answers: list[AnswerFeatures] = []
        for exchange, prompt, trace in zip(
            picture_exchanges.exchanges, prompts, traces, strict=True
        ):
            offsets = _traced_offsets(prompt)
            text = prompt.question if exchange.answer is None else exchange.answer
            groundable = torch.zeros(len(trace.token_ids))
            for start, end in exchange.spans:
                tokens = list(make_phrase_span(text, start, end, offsets).tokens)
                if not tokens:
                    raise InputError(
                        f"the phrase {text[start:end]!r} of {text!r} has no token of its own;"
                        " leave it out"
                    )
                groundable[tokens] = 1
                phrases.append(self._phrase_features(trace, tokens))
            if exchange.fully_annotated and self.head.config.selector:
                answers.append(AnswerFeatures(trace.hidden_states.clone(), groundable, offsets))
        embedding = None
        if self.head.config.refine:
            embedding = self.head.refiner.encode(
                np.asarray(picture_exchanges.picture.convert("RGB"))
            )[0]
        return GroundingFeatures(traces[0].geometry, embedding, tuple(phrases), tuple(answers))

    def _phrase_features(self, trace: Trace, tokens: Sequence[int]) -> PhraseFeatures:
        config = self.head.config
        maps = trace.picture_attention.phrase_maps(tokens, config.merge)
        return PhraseFeatures(config.select_maps(maps), trace.hidden_states[:, list(tokens)])


def predict_masks(
    head: GroundingHead,
    features: GroundingFeatures,
    resolution: MaskResolution = "picture",
    device: torch.device | None = None,
) -> HeadOutput:
    """The head's masks of all phrases of one picture, in their order.

    ``device``: the head's, where the features are elsewhere.
    """
    embedding = features.image_embedding
    output: HeadOutput = head(
        torch.stack([phrase.attention for phrase in features.phrases]).to(device),
        [phrase.hidden_states.to(device) for phrase in features.phrases],
        features.geometry,
        torch.empty(0) if embedding is None else embedding[None].to(device),
        resolution=resolution,
    )
    return output


def _traced_offsets(prompt: Prompt) -> Offsets:
    return prompt.question_offsets if prompt.answer_offsets is None else prompt.answer_offsets
