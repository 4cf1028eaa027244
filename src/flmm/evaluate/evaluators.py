"""Evaluators: from pictures with true masks to rows, with given or with generated texts.

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
from flmm.head.prompt_templates import DEFAULT_CAPTION_PROMPT
from flmm.masks.selector import select_phrases
from flmm.pictures.geometry import mask_box, resize_to_picture

Mask = NDArray[np.bool_]
EMPTY_BOX = (0, 0, 0, 0)
"""The box of an empty mask."""


@dataclass(frozen=True)
class IndexedSample:
    """A loaded sample and its index in the data set."""

    index: int
    loaded: LoadedSample

    @property
    def picture(self) -> str:
        return str(self.loaded.sample.picture)


@dataclass(frozen=True)
class _Prediction:
    """The predicted masks of one phrase, (H, W) bool, and their score."""

    refined_mask: Tensor
    decoder_mask: Tensor | None
    score: float


class TeacherForcedEvaluator:
    """Evaluates a head on given texts (teacher forcing), under one protocol."""

    def __init__(self, grounder: Grounder, dataset: str, protocol: ReferringProtocol) -> None:
        self.head = grounder.head
        self.extractor = FeatureExtractor(grounder.adapter, grounder.head)
        self.dataset = dataset
        self.protocol = protocol

    @torch.no_grad()
    def evaluate(self, samples: Sequence[IndexedSample]) -> list[SampleResult | InputError]:
        """Return the rows of each sample, or its error; all run through the LMM together.

        Samples without a phrase give no phrase rows.
        """
        exchanges_by_sample = [
            build_exchanges(
                [loaded.text for loaded in sample.loaded.texts], self.head.config, self.protocol
            )
            for sample in samples
        ]
        indices = [index for index, exchanges in enumerate(exchanges_by_sample) if exchanges]
        pictures = [
            PictureExchanges(samples[index].loaded.picture, exchanges_by_sample[index])
            for index in indices
        ]
        extracted = dict(zip(indices, self._extract(pictures), strict=True))
        results: list[SampleResult | InputError] = []
        for index, (sample, exchanges) in enumerate(zip(samples, exchanges_by_sample, strict=True)):
            features = extracted.get(index)
            if isinstance(features, InputError):
                results.append(features)
                continue
            phrases = [] if features is None else self._phrase_rows(sample, exchanges, features)
            captions = [] if features is None else self._selector_rows(sample, exchanges, features)
            num_phrases = sum(len(loaded.text.phrases) for loaded in sample.loaded.texts)
            row = build_sample_row(sample, skipped_phrases=num_phrases - len(phrases))
            results.append(SampleResult(row, tuple(phrases), tuple(captions)))
        return results

    def _extract(
        self, pictures: Sequence[PictureExchanges]
    ) -> list[GroundingFeatures | InputError]:
        """Extract features; on an error picture by picture, so that it costs one sample only."""
        if not pictures:
            return []
        try:
            return list(self.extractor.extract(pictures))
        except InputError as error:
            if len(pictures) == 1:
                return [error]
            return [self._extract([picture])[0] for picture in pictures]

    def _phrase_rows(
        self, sample: IndexedSample, exchanges: Sequence[Exchange], features: GroundingFeatures
    ) -> list[PhraseRow]:
        indices = [pair for exchange in exchanges for pair in exchange.phrase_indices]
        predictions = zip(indices, _predict_masks(self.head, features), strict=True)
        return [
            _build_phrase_row(
                self.dataset, self.protocol.value, sample, sample.loaded.texts[text], phrase,
                prediction,
            )
            for (text, phrase), prediction in sorted(predictions, key=lambda pair: pair[0])
        ]  # fmt: skip

    def _selector_rows(
        self, sample: IndexedSample, exchanges: Sequence[Exchange], features: GroundingFeatures
    ) -> list[SelectorRow]:
        if self.head.selector is None:
            return []
        captions = [exchange for exchange in exchanges if exchange.fully_annotated]
        rows = []
        for exchange, answer in zip(captions, features.answers, strict=True):
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


class GenerationEvaluator:
    """Evaluates captions that the LMM generates.

    A true phrase's row has the mask of the generated phrase that is matched with it (one to one,
    highest IoU first), or an empty mask.
    """

    def __init__(self, grounder: Grounder, dataset: str) -> None:
        self.grounder = grounder
        self.dataset = dataset

    def evaluate(self, samples: Sequence[IndexedSample]) -> list[SampleResult | InputError]:
        """Return the rows of each sample, or its error."""
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
        generated: list[GeneratedPhraseRow] = []
        for loaded in sample.loaded.texts:
            question = (
                loaded.text.question
                or self.grounder.head.config.caption_prompt
                or DEFAULT_CAPTION_PROMPT
            )
            if question not in answers:
                answers[question] = self.grounder.chat(sample.loaded.picture, question)
            answer = answers[question]
            generated.extend(self._generated_rows(sample, loaded.text, answer))
            phrases.extend(self._matched_rows(sample, loaded, answer))
        return SampleResult(build_sample_row(sample), tuple(phrases), said=tuple(generated))

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
        matches = {true: predicted for predicted, true in match_greedily(ious)}
        rows = []
        for number in range(len(loaded.text.phrases)):
            prediction = _Prediction(torch.zeros(answer.size, dtype=torch.bool), None, 0.0)
            if number in matches:
                phrase = answer.phrases[matches[number]]
                prediction = _Prediction(torch.from_numpy(phrase.mask), None, phrase.score)
            rows.append(
                _build_phrase_row(self.dataset, "own words", sample, loaded, number, prediction)
            )
        return rows


def build_sample_row(sample: IndexedSample, skipped_phrases: int = 0) -> SampleRow:
    """Return the row of a sample that was measured."""
    skipped_texts = len(sample.loaded.sample.texts) - len(sample.loaded.texts)
    return SampleRow(sample.index, sample.picture, True, skipped_texts, skipped_phrases, ())


def _predict_masks(head: GroundingHead, features: GroundingFeatures) -> list[_Prediction]:
    """Predict the masks of all phrases, as many at a time as fit into memory."""
    batch_size = max_phrases_per_pass(features.geometry.picture)
    predictions = []
    for start in range(0, len(features.phrases), batch_size):
        output = predict_masks(
            head, replace(features, phrases=features.phrases[start : start + batch_size])
        )
        decoded = (resize_to_picture(output.mask_logits, features.geometry) > 0).cpu()
        for logits, decoder in zip(output.refined_logits.cpu(), decoded, strict=True):
            refined = logits > 0
            score = float(logits[refined].sigmoid().mean()) if refined.any() else 0.0
            predictions.append(_Prediction(refined, decoder, score))
    return predictions


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
