"""Evaluation on given texts, which are put in the LMM's mouth (teacher forcing).

Letters: ``P`` phrases, ``H W`` picture size.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch

from flmm.data.exchanges import Exchange, ReferringProtocol, build_exchanges
from flmm.data.features import PictureExchanges
from flmm.errors import InputError
from flmm.evaluate.predictions import (
    IndexedSample,
    Prediction,
    build_phrase_row,
    build_sample_row,
)
from flmm.evaluate.rows import PhraseRow, SampleResult, SelectorRow
from flmm.head.prompt_templates import PromptTemplates

Extracted = TypeVar("Extracted")
"""What the LMM gives for one picture's exchanges."""


class TeacherForcedEvaluator(ABC, Generic[Extracted]):
    """Evaluates masks of the phrases of given texts, under one protocol.

    Args:
        templates: the questions that the texts answer.
        dataset: the data set's name.
        protocol: how referring expressions are asked.
    """

    def __init__(
        self, templates: PromptTemplates, dataset: str, protocol: ReferringProtocol
    ) -> None:
        self.templates = templates
        self.dataset = dataset
        self.protocol = protocol

    @abstractmethod
    def extract(self, pictures: Sequence[PictureExchanges]) -> Sequence[Extracted]:
        """Run the LMM on the exchanges of some pictures, at least one a picture.

        Raises:
            InputError: a phrase has no token of its own, or the LMM cannot take a prompt.
        """

    @abstractmethod
    def predict(self, extracted: Extracted) -> list[Prediction]:
        """Return the masks of all phrases of one picture, in the order of its exchanges."""

    def selector_rows(
        self, _sample: IndexedSample, _exchanges: Sequence[Exchange], _extracted: Extracted
    ) -> list[SelectorRow]:
        """Return the rows of a keyword selector; none without one."""
        return []

    @torch.no_grad()
    def evaluate(self, samples: Sequence[IndexedSample]) -> list[SampleResult | InputError]:
        """Return the rows of each sample, or its error; all run through the LMM together.

        Samples without a phrase give no phrase rows.
        """
        exchanges_by_sample = [
            build_exchanges(
                [loaded.text for loaded in sample.loaded.texts], self.templates, self.protocol
            )
            for sample in samples
        ]
        indices = [index for index, exchanges in enumerate(exchanges_by_sample) if exchanges]
        pictures = [
            PictureExchanges(samples[index].loaded.picture, exchanges_by_sample[index])
            for index in indices
        ]
        extracted = dict(zip(indices, self._extract_or_fail(pictures), strict=True))
        results: list[SampleResult | InputError] = []
        for index, (sample, exchanges) in enumerate(zip(samples, exchanges_by_sample, strict=True)):
            of_sample = extracted.get(index)
            if isinstance(of_sample, InputError):
                results.append(of_sample)
                continue
            phrases = [] if of_sample is None else self._phrase_rows(sample, exchanges, of_sample)
            captions = [] if of_sample is None else self.selector_rows(sample, exchanges, of_sample)
            num_phrases = sum(len(loaded.text.phrases) for loaded in sample.loaded.texts)
            row = build_sample_row(sample, skipped_phrases=num_phrases - len(phrases))
            results.append(SampleResult(row, tuple(phrases), tuple(captions)))
        return results

    def _extract_or_fail(
        self, pictures: Sequence[PictureExchanges]
    ) -> list[Extracted | InputError]:
        """Extract; on an error picture by picture, so that it costs one sample only."""
        if not pictures:
            return []
        try:
            return list(self.extract(pictures))
        except InputError as error:
            if len(pictures) == 1:
                return [error]
            return [self._extract_or_fail([picture])[0] for picture in pictures]

    def _phrase_rows(
        self, sample: IndexedSample, exchanges: Sequence[Exchange], extracted: Extracted
    ) -> list[PhraseRow]:
        indices = [pair for exchange in exchanges for pair in exchange.phrase_indices]
        predictions = zip(indices, self.predict(extracted), strict=True)
        return [
            build_phrase_row(
                self.dataset, self.protocol.value, sample, sample.loaded.texts[text], phrase,
                prediction,
            )
            for (text, phrase), prediction in sorted(predictions, key=lambda pair: pair[0])
        ]  # fmt: skip
