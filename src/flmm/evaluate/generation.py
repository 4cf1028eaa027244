"""Evaluation of captions that the LMM generates.

Letters: ``H W`` picture size.
"""

from collections.abc import Sequence

import torch

from flmm.answers.answer import Answer
from flmm.answers.run_lengths import encode_rle
from flmm.data.sample import GroundedText
from flmm.data.sample_loader import LoadedText
from flmm.errors import InputError
from flmm.evaluate.grounded_conversation import match_greedily, pairwise_mask_iou
from flmm.evaluate.predictions import (
    IndexedSample,
    Prediction,
    build_phrase_row,
    build_sample_row,
    evaluate_one_by_one,
)
from flmm.evaluate.rows import GeneratedPhraseRow, PhraseRow, SampleResult
from flmm.grounding.grounder import Grounder


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
        return evaluate_one_by_one(samples, self._evaluate_sample)

    def _evaluate_sample(self, sample: IndexedSample) -> SampleResult:
        answers: dict[str, Answer] = {}
        phrases: list[PhraseRow] = []
        generated: list[GeneratedPhraseRow] = []
        for loaded in sample.loaded.texts:
            question = loaded.text.question or self.grounder.pipeline.prompt_templates.caption
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
                phrase.rle["counts"],
            )
            for number, phrase in enumerate(answer.phrases)
        ]  # fmt: skip

    def _matched_rows(
        self, sample: IndexedSample, loaded: LoadedText, answer: Answer
    ) -> list[PhraseRow]:
        ious = pairwise_mask_iou(
            [phrase.rle for phrase in answer.phrases],
            [encode_rle(mask) for mask in loaded.masks],
        )
        matches = {true: predicted for predicted, true in match_greedily(ious)}
        rows = []
        for number in range(len(loaded.text.phrases)):
            prediction = Prediction(torch.zeros(answer.size, dtype=torch.bool), None, 0.0)
            if number in matches:
                phrase = answer.phrases[matches[number]]
                prediction = Prediction(torch.from_numpy(phrase.mask), None, phrase.score)
            rows.append(
                build_phrase_row(self.dataset, "own words", sample, loaded, number, prediction)
            )
        return rows
