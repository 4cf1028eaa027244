"""From pictures with true masks to rows: the texts are put in the LMM's mouth, or it speaks.

Letters: ``P`` phrases, ``H W`` picture size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flmm.answers.answer import Answer, run_lengths
from flmm.data.exchanges import Exchange, Protocol, exchanges_of
from flmm.data.features import AskedPicture, FeatureExtractor, GroundingFeatures, decode
from flmm.data.sample import GroundedText
from flmm.data.sample_loader import ReadSample, ReadText
from flmm.errors import InputError
from flmm.evaluate.grounded_conversation import mask_ious, pair_off
from flmm.evaluate.metrics import box_iou, mask_overlap, span_counts
from flmm.evaluate.rows import CaptionRow, PhraseRow, SaidRow, SampleResult, SampleRow
from flmm.grounding.grounder import Grounder
from flmm.grounding.mask_predictor import phrases_at_once
from flmm.head.model import GroundingHead
from flmm.head.prompts import DEFAULT_CAPTION_PROMPT
from flmm.masks.selector import select_phrases
from flmm.pictures.geometry import mask_box, resize_to_picture

Mask = NDArray[np.bool_]
NOWHERE = (0, 0, 0, 0)
"""The box of an empty mask."""


@dataclass(frozen=True)
class NumberedSample:
    """A sample that was read, and its place in the data set."""

    number: int
    read: ReadSample

    @property
    def picture(self) -> str:
        return str(self.read.sample.picture)


@dataclass(frozen=True)
class _Found:
    """What was predicted for one phrase; (H, W) masks."""

    refined: Tensor
    decoder: Tensor | None
    score: float


class GivenTexts:
    """Measures a head on texts that the LMM is made to say, under one protocol."""

    def __init__(self, grounder: Grounder, dataset: str, protocol: Protocol) -> None:
        self.head = grounder.head
        self.extractor = FeatureExtractor(grounder.adapter, grounder.head)
        self.dataset = dataset
        self.protocol = protocol

    @torch.no_grad()
    def measure(self, samples: Sequence[NumberedSample]) -> list[SampleResult | InputError]:
        """The rows of each sample, or why it cannot be measured. All run through the LMM at once.

        Samples without a phrase give no phrase rows.
        """
        asked = [
            exchanges_of([one.text for one in sample.read.texts], self.head.config, self.protocol)
            for sample in samples
        ]
        to_ask = [index for index, exchanges in enumerate(asked) if exchanges]
        pictures = [AskedPicture(samples[index].read.picture, asked[index]) for index in to_ask]
        features = dict(zip(to_ask, self._extract(pictures), strict=True))
        results: list[SampleResult | InputError] = []
        for index, (sample, exchanges) in enumerate(zip(samples, asked, strict=True)):
            seen = features.get(index)
            if isinstance(seen, InputError):
                results.append(seen)
                continue
            phrases = [] if seen is None else self._phrases(sample, exchanges, seen)
            captions = [] if seen is None else self._captions(sample, exchanges, seen)
            given = sum(len(text.text.phrases) for text in sample.read.texts)
            row = measured(sample, skipped_phrases=given - len(phrases))
            results.append(SampleResult(row, tuple(phrases), tuple(captions)))
        return results

    def _extract(self, pictures: Sequence[AskedPicture]) -> list[GroundingFeatures | InputError]:
        """One by one where a picture cannot be asked about, so that the others are."""
        if not pictures:
            return []
        try:
            return list(self.extractor.extract(pictures))
        except InputError as error:
            if len(pictures) == 1:
                return [error]
            return [one for picture in pictures for one in self._extract([picture])]

    def _phrases(
        self, sample: NumberedSample, exchanges: Sequence[Exchange], seen: GroundingFeatures
    ) -> list[PhraseRow]:
        owners = [owner for exchange in exchanges for owner in exchange.phrases]
        found = _decode_all(self.head, seen)
        rows = []
        for (text, phrase), one in sorted(
            zip(owners, found, strict=True), key=lambda pair: pair[0]
        ):
            read = sample.read.texts[text]
            rows.append(_phrase_row(self.dataset, self.protocol.value, sample, read, phrase, one))
        return rows

    def _captions(
        self, sample: NumberedSample, exchanges: Sequence[Exchange], seen: GroundingFeatures
    ) -> list[CaptionRow]:
        if self.head.selector is None:
            return []
        captions = [exchange for exchange in exchanges if exchange.names_all]
        rows = []
        for exchange, answer in zip(captions, seen.answers, strict=True):
            assert exchange.answer is not None
            chosen = select_phrases(
                exchange.answer,
                answer.offsets,
                self.head.keyword_logits(answer.hidden_states),
                self.head.config.selector_threshold,
            )
            counts = span_counts(chosen, exchange.spans)
            text = sample.read.texts[exchange.phrases[0][0]].text
            rows.append(
                CaptionRow(
                    self.dataset, sample.number, sample.picture, text.identity,
                    counts.hits, counts.chosen, counts.wanted,
                )
            )  # fmt: skip
        return rows


class OwnWords:
    """Measures what the LMM says by itself: each picture's caption in its own words.

    A true phrase's row is about the said phrase that was paired off with it (highest IoU first,
    one to one), or about nothing.
    """

    def __init__(self, grounder: Grounder, dataset: str) -> None:
        self.grounder = grounder
        self.dataset = dataset

    def measure(self, samples: Sequence[NumberedSample]) -> list[SampleResult | InputError]:
        """The rows of each sample, or why it cannot be measured."""
        results: list[SampleResult | InputError] = []
        for sample in samples:
            try:
                results.append(self._measure(sample))
            except InputError as error:
                results.append(error)
        return results

    def _measure(self, sample: NumberedSample) -> SampleResult:
        answers: dict[str, Answer] = {}
        phrases: list[PhraseRow] = []
        said: list[SaidRow] = []
        for read in sample.read.texts:
            question = (
                read.text.question
                or self.grounder.head.config.caption_prompt
                or DEFAULT_CAPTION_PROMPT
            )
            if question not in answers:
                answers[question] = self.grounder.chat(sample.read.picture, question)
            answer = answers[question]
            said.extend(self._said(sample, read.text, answer))
            phrases.extend(self._paired(sample, read, answer))
        return SampleResult(measured(sample), tuple(phrases), said=tuple(said))

    def _said(self, sample: NumberedSample, text: GroundedText, answer: Answer) -> list[SaidRow]:
        height, width = answer.size
        return [
            SaidRow(
                self.dataset, sample.number, sample.picture, text.identity, answer.text, number,
                phrase.start, phrase.end, phrase.text, phrase.box, phrase.score, height, width,
                run_lengths(phrase.mask)["counts"],
            )
            for number, phrase in enumerate(answer.phrases)
        ]  # fmt: skip

    def _paired(self, sample: NumberedSample, read: ReadText, answer: Answer) -> list[PhraseRow]:
        ious = mask_ious(
            [run_lengths(phrase.mask) for phrase in answer.phrases],
            [run_lengths(mask) for mask in read.masks],
        )
        partner = {true: said for said, true in pair_off(ious)}
        rows = []
        for number in range(len(read.text.phrases)):
            found = _Found(torch.zeros(answer.size, dtype=torch.bool), None, 0.0)
            if number in partner:
                phrase = answer.phrases[partner[number]]
                found = _Found(torch.from_numpy(phrase.mask), None, phrase.score)
            rows.append(_phrase_row(self.dataset, "own words", sample, read, number, found))
        return rows


def measured(sample: NumberedSample, skipped_phrases: int = 0) -> SampleRow:
    """The row of a sample that was measured."""
    skipped_texts = len(sample.read.sample.texts) - len(sample.read.texts)
    return SampleRow(sample.number, sample.picture, True, skipped_texts, skipped_phrases, ())


def _decode_all(head: GroundingHead, seen: GroundingFeatures) -> list[_Found]:
    """The head's masks of all phrases, so many at a time as fit."""
    at_once = phrases_at_once(seen.geometry.picture)
    found = []
    for first in range(0, len(seen.phrases), at_once):
        output = decode(head, replace(seen, phrases=seen.phrases[first : first + at_once]))
        decoded = (resize_to_picture(output.mask_logits, seen.geometry) > 0).cpu()
        for logits, decoder in zip(output.refined_logits.cpu(), decoded, strict=True):
            refined = logits > 0
            score = float(logits[refined].sigmoid().mean()) if refined.any() else 0.0
            found.append(_Found(refined, decoder, score))
    return found


def _phrase_row(
    dataset: str,
    protocol: str,
    sample: NumberedSample,
    read: ReadText,
    number: int,
    found: _Found,
) -> PhraseRow:
    phrase = read.text.phrases[number]
    true = torch.from_numpy(read.masks[number])
    ignored = torch.from_numpy(read.ignored[number])[None]
    refined = mask_overlap(found.refined[None], true[None], ignored)
    decoder = None
    if found.decoder is not None:
        decoder = mask_overlap(found.decoder[None], true[None], ignored)
    predicted_box, true_box = mask_box(found.refined) or NOWHERE, mask_box(true) or NOWHERE
    height, width = true.shape
    return PhraseRow(
        dataset=dataset,
        protocol=protocol,
        sample=sample.number,
        picture=sample.picture,
        text_identity=read.text.identity,
        kind=read.text.kind,
        sentence=read.text.text,
        phrase=number,
        start=phrase.start,
        end=phrase.end,
        text=read.text.text[phrase.start : phrase.end],
        is_thing=phrase.is_thing,
        plural=phrase.plural,
        decoder_intersection=None if decoder is None else int(decoder.intersection),
        decoder_union=None if decoder is None else int(decoder.union),
        refined_intersection=int(refined.intersection),
        refined_union=int(refined.union),
        predicted_box=predicted_box,
        true_box=true_box,
        box_iou=box_iou(torch.tensor([predicted_box]), torch.tensor([true_box])).item(),
        score=found.score,
        predicted_pixels=int(found.refined.sum()),
        true_pixels=int(true.sum()),
        height=height,
        width=width,
        predicted_mask=run_lengths(found.refined.numpy())["counts"],
        true_mask=run_lengths(read.masks[number])["counts"],
    )
