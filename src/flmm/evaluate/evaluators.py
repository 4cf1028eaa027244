"""From pictures with true masks to rows: the texts are put in the LMM's mouth, or it speaks.

Letters: ``P`` phrases, ``H W`` picture size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flmm.answers.answer import Answer, encode_rle
from flmm.data.exchanges import Exchange, ReferringProtocol, build_exchanges
from flmm.data.features import FeatureExtractor, GroundingFeatures, PictureExchanges, predict_masks
from flmm.data.sample import GroundedText
from flmm.data.sample_loader import LoadedSample, LoadedText
from flmm.errors import InputError
from flmm.evaluate.grounded_conversation import match_greedily, pairwise_mask_iou
from flmm.evaluate.metrics import box_iou, compute_overlap, count_spans
from flmm.evaluate.rows import GeneratedPhraseRow, PhraseRow, SampleResult, SampleRow, SelectorRow
from flmm.grounding.grounder import Grounder
from flmm.grounding.mask_predictor import max_phrases_per_pass
from flmm.head.model import GroundingHead
from flmm.head.prompts import DEFAULT_CAPTION_PROMPT
from flmm.masks.selector import select_phrases
from flmm.pictures.geometry import mask_box, resize_to_picture

Mask = NDArray[np.bool_]
EMPTY_BOX = (0, 0, 0, 0)
"""The box of an empty mask."""


@dataclass(frozen=True)
class IndexedSample:
    """A sample that was read, and its place in the data set."""

    index: int
    loaded: LoadedSample

    @property
    def picture(self) -> str:
        return str(self.loaded.sample.picture)


@dataclass(frozen=True)
class _Prediction:
    """What was predicted for one phrase; (H, W) masks."""

    refined_mask: Tensor
    decoder_mask: Tensor | None
    score: float


class TeacherForcedEvaluator:
    """Measures a head on texts that the LMM is made to say, under one protocol."""

    def __init__(self, grounder: Grounder, dataset: str, protocol: ReferringProtocol) -> None:
        self.head = grounder.head
        self.extractor = FeatureExtractor(grounder.adapter, grounder.head)
        self.dataset = dataset
        self.protocol = protocol

    @torch.no_grad()
    def evaluate(self, samples: Sequence[IndexedSample]) -> list[SampleResult | InputError]:
        """The rows of each sample, or why it cannot be measured. All run through the LMM at once.

        Samples without a phrase give no phrase rows.
        """
        asked = [
            build_exchanges(
                [one.text for one in sample.loaded.texts], self.head.config, self.protocol
            )
            for sample in samples
        ]
        to_ask = [index for index, exchanges in enumerate(asked) if exchanges]
        pictures = [
            PictureExchanges(samples[index].loaded.picture, asked[index]) for index in to_ask
        ]
        features = dict(zip(to_ask, self._extract(pictures), strict=True))
        results: list[SampleResult | InputError] = []
        for index, (sample, exchanges) in enumerate(zip(samples, asked, strict=True)):
            seen = features.get(index)
            if isinstance(seen, InputError):
                results.append(seen)
                continue
            phrases = [] if seen is None else self._phrase_rows(sample, exchanges, seen)
            captions = [] if seen is None else self._selector_rows(sample, exchanges, seen)
            given = sum(len(text.text.phrases) for text in sample.loaded.texts)
            row = build_sample_row(sample, skipped_phrases=given - len(phrases))
            results.append(SampleResult(row, tuple(phrases), tuple(captions)))
        return results

    def _extract(
        self, pictures: Sequence[PictureExchanges]
    ) -> list[GroundingFeatures | InputError]:
        """One by one where a picture cannot be asked about, so that the others are."""
        if not pictures:
            return []
        try:
            return list(self.extractor.extract(pictures))
        except InputError as error:
            if len(pictures) == 1:
                return [error]
            return [one for picture in pictures for one in self._extract([picture])]

    def _phrase_rows(
        self, sample: IndexedSample, exchanges: Sequence[Exchange], features: GroundingFeatures
    ) -> list[PhraseRow]:
        owners = [owner for exchange in exchanges for owner in exchange.phrase_indices]
        found = _predict_masks(self.head, features)
        rows = []
        for (text, phrase), one in sorted(
            zip(owners, found, strict=True), key=lambda pair: pair[0]
        ):
            read = sample.loaded.texts[text]
            rows.append(
                _build_phrase_row(self.dataset, self.protocol.value, sample, read, phrase, one)
            )
        return rows

    def _selector_rows(
        self, sample: IndexedSample, exchanges: Sequence[Exchange], features: GroundingFeatures
    ) -> list[SelectorRow]:
        if self.head.selector is None:
            return []
        captions = [exchange for exchange in exchanges if exchange.fully_annotated]
        rows = []
        for exchange, answer in zip(captions, features.answers, strict=True):
            assert exchange.answer is not None
            chosen = select_phrases(
                exchange.answer,
                answer.offsets,
                self.head.keyword_logits(answer.hidden_states),
                self.head.config.selector_threshold,
            )
            counts = count_spans(chosen, exchange.spans)
            text = sample.loaded.texts[exchange.phrase_indices[0][0]].text
            rows.append(
                SelectorRow(
                    self.dataset, sample.index, sample.picture, text.identity,
                    counts.hits, counts.chosen, counts.wanted,
                )
            )  # fmt: skip
        return rows


class GenerationEvaluator:
    """Measures what the LMM says by itself: each picture's caption in its own words.

    A true phrase's row is about the said phrase that was paired off with it (highest IoU first,
    one to one), or about nothing.
    """

    def __init__(self, grounder: Grounder, dataset: str) -> None:
        self.grounder = grounder
        self.dataset = dataset

    def evaluate(self, samples: Sequence[IndexedSample]) -> list[SampleResult | InputError]:
        """The rows of each sample, or why it cannot be measured."""
        results: list[SampleResult | InputError] = []
        for sample in samples:
            try:
                results.append(self._evaluate_sample(sample))
            except InputError as error:
                results.append(error)
        return results

    def _evaluate_sample(self, sample: IndexedSample) -> SampleResult:
        answers: dict[str, Answer] = {}
        phrases: list[PhraseRow] = []
        said: list[GeneratedPhraseRow] = []
        for read in sample.loaded.texts:
            question = (
                read.text.question
                or self.grounder.head.config.caption_prompt
                or DEFAULT_CAPTION_PROMPT
            )
            if question not in answers:
                answers[question] = self.grounder.chat(sample.loaded.picture, question)
            answer = answers[question]
            said.extend(self._generated_rows(sample, read.text, answer))
            phrases.extend(self._matched_rows(sample, read, answer))
        return SampleResult(build_sample_row(sample), tuple(phrases), said=tuple(said))

    def _generated_rows(
        self, sample: IndexedSample, text: GroundedText, answer: Answer
    ) -> list[GeneratedPhraseRow]:
        height, width = answer.size
        return [
            GeneratedPhraseRow(
                self.dataset, sample.index, sample.picture, text.identity, answer.text, number,
                phrase.start, phrase.end, phrase.text, phrase.box, phrase.score, height, width,
                encode_rle(phrase.mask)["counts"],
            )
            for number, phrase in enumerate(answer.phrases)
        ]  # fmt: skip

    def _matched_rows(
        self, sample: IndexedSample, loaded: LoadedText, answer: Answer
    ) -> list[PhraseRow]:
        ious = pairwise_mask_iou(
            [encode_rle(phrase.mask) for phrase in answer.phrases],
            [encode_rle(mask) for mask in loaded.masks],
        )
        partner = {true: said for said, true in match_greedily(ious)}
        rows = []
        for number in range(len(loaded.text.phrases)):
            found = _Prediction(torch.zeros(answer.size, dtype=torch.bool), None, 0.0)
            if number in partner:
                phrase = answer.phrases[partner[number]]
                found = _Prediction(torch.from_numpy(phrase.mask), None, phrase.score)
            rows.append(_build_phrase_row(self.dataset, "own words", sample, loaded, number, found))
        return rows


def build_sample_row(sample: IndexedSample, skipped_phrases: int = 0) -> SampleRow:
    """The row of a sample that was measured."""
    skipped_texts = len(sample.loaded.sample.texts) - len(sample.loaded.texts)
    return SampleRow(sample.index, sample.picture, True, skipped_texts, skipped_phrases, ())


def _predict_masks(head: GroundingHead, features: GroundingFeatures) -> list[_Prediction]:
    """The head's masks of all phrases, so many at a time as fit."""
    at_once = max_phrases_per_pass(features.geometry.picture)
    found = []
    for first in range(0, len(features.phrases), at_once):
        output = predict_masks(
            head, replace(features, phrases=features.phrases[first : first + at_once])
        )
        decoded = (resize_to_picture(output.mask_logits, features.geometry) > 0).cpu()
        for logits, decoder in zip(output.refined_logits.cpu(), decoded, strict=True):
            refined = logits > 0
            score = float(logits[refined].sigmoid().mean()) if refined.any() else 0.0
            found.append(_Prediction(refined, decoder, score))
    return found


def _build_phrase_row(
    dataset: str,
    protocol: str,
    sample: IndexedSample,
    loaded: LoadedText,
    phrase_index: int,
    prediction: _Prediction,
) -> PhraseRow:
    phrase = loaded.text.phrases[phrase_index]
    true = torch.from_numpy(loaded.masks[phrase_index])
    ignored = torch.from_numpy(loaded.ignored_masks[phrase_index])[None]
    refined = compute_overlap(prediction.refined_mask[None], true[None], ignored)
    decoder = None
    if prediction.decoder_mask is not None:
        decoder = compute_overlap(prediction.decoder_mask[None], true[None], ignored)
    predicted_box, true_box = (
        mask_box(prediction.refined_mask) or EMPTY_BOX,
        mask_box(true) or EMPTY_BOX,
    )
    height, width = true.shape
    return PhraseRow(
        dataset=dataset,
        protocol=protocol,
        sample=sample.index,
        picture=sample.picture,
        text_identity=loaded.text.identity,
        kind=loaded.text.kind,
        sentence=loaded.text.text,
        phrase=phrase_index,
        start=phrase.start,
        end=phrase.end,
        text=loaded.text.text[phrase.start : phrase.end],
        is_thing=phrase.is_thing,
        plural=phrase.plural,
        decoder_intersection=None if decoder is None else int(decoder.intersection),
        decoder_union=None if decoder is None else int(decoder.union),
        refined_intersection=int(refined.intersection),
        refined_union=int(refined.union),
        predicted_box=predicted_box,
        true_box=true_box,
        box_iou=box_iou(torch.tensor([predicted_box]), torch.tensor([true_box])).item(),
        score=prediction.score,
        predicted_pixels=int(prediction.refined_mask.sum()),
        true_pixels=int(true.sum()),
        height=height,
        width=width,
        predicted_mask=encode_rle(prediction.refined_mask.numpy())["counts"],
        true_mask=encode_rle(loaded.masks[phrase_index])["counts"],
    )
