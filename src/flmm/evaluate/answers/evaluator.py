"""Evaluation of the LMM's answers to questions, plain and with every closer look."""

import zlib
from collections.abc import Sequence

import numpy as np

from flmm.data.sample import GroundedText
from flmm.data.sample_loader import LoadedText
from flmm.errors import InputError
from flmm.evaluate.answers.scores import (
    contains_answer,
    exact_match,
    normalised_levenshtein_similarity,
)
from flmm.evaluate.answers.ways import (
    CloserLook,
    Question,
    SecondAnswer,
    WaysOfAnswering,
    answer_in_every_way,
    true_region,
)
from flmm.evaluate.predictions import (
    EMPTY_BOX,
    IndexedSample,
    build_sample_row,
    evaluate_one_by_one,
)
from flmm.evaluate.rows import AnswerRow, SampleResult
from flmm.grounding.grounder import Grounder
from flmm.user_input import is_embedded

SHORT_ANSWER_REQUEST = "Answer the question using a single word or phrase."
"""Follows every question whose answer is scored (paper section 4.4)."""

_QUESTIONS_AT_ONCE = 4
"""Whose first answers are generated together; a large LMM's attention maps are some megabytes a
token."""


class AnswerEvaluator:
    """Evaluates answers to questions whose true answer and region are known.

    Args:
        grounder: of an LMM that can be shown two pictures.
        dataset_names: the data set of each sample of the benchmark.
    """

    def __init__(self, grounder: Grounder, dataset_names: Sequence[str]) -> None:
        self.pipeline = grounder.pipeline
        self.dataset_names = dataset_names
        # The embedded LMM knows its own questions alone, and answers others with nonsense.
        self.request = "" if is_embedded(grounder.lmm) else f" {SHORT_ANSWER_REQUEST}"

    def evaluate(self, samples: Sequence[IndexedSample]) -> list[SampleResult | InputError]:
        """Return the rows of each sample, or its error."""
        return evaluate_one_by_one(samples, self._evaluate_sample)

    def _evaluate_sample(self, sample: IndexedSample) -> SampleResult:
        dataset = self.dataset_names[sample.index]
        questions = [self._build_question(dataset, loaded) for loaded in sample.loaded.texts]
        answered = [
            ways
            for start in range(0, len(questions), _QUESTIONS_AT_ONCE)
            for ways in answer_in_every_way(
                self.pipeline,
                sample.loaded.picture,
                questions[start : start + _QUESTIONS_AT_ONCE],
            )
        ]
        rows = [
            row
            for loaded, question, ways in zip(sample.loaded.texts, questions, answered, strict=True)
            for row in _build_rows(dataset, sample, loaded.text, question, ways)
        ]
        return SampleResult(build_sample_row(sample), answers=tuple(rows))

    def _build_question(self, dataset: str, loaded: LoadedText) -> Question:
        text = loaded.text
        region = true_region(text.text, 0, len(text.text), np.logical_or.reduce(loaded.masks))
        seed = zlib.crc32(f"{dataset}/{text.identity}".encode())
        return Question(text.text, text.text + self.request, region, seed)


def _build_rows(
    dataset: str,
    sample: IndexedSample,
    text: GroundedText,
    question: Question,
    ways: WaysOfAnswering,
) -> list[AnswerRow]:
    """Return one row for each way of asking, the plain one first."""
    true_answer = text.answer
    assert true_answer is not None, "benchmarks of answers have true ones"

    def build_row(look: CloserLook | None, shown: SecondAnswer) -> AnswerRow:
        accepted = [true_answer]
        return AnswerRow(
            dataset=dataset,
            sample=sample.index,
            picture=sample.picture,
            text_identity=text.identity,
            question=question.text,
            true_answer=true_answer,
            locate=None if look is None else look.locate,
            crop=None if look is None else look.crop,
            located=None if shown.located is None else shown.located.text,
            box=shown.box,
            true_box=question.region.box,
            answer=shown.text,
            exact_match=exact_match(shown.text, accepted),
            containment=contains_answer(shown.text, accepted),
            anls=normalised_levenshtein_similarity(shown.text, accepted),
        )

    plain = build_row(None, SecondAnswer(None, EMPTY_BOX, ways.plain))
    return [plain, *(build_row(look, shown) for look, shown in ways.closer.items())]
