"""Evaluation of the LMM's answers to questions, plain and with every closer look."""

import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from flmm.data.sample import GroundedText
from flmm.data.sample_loader import LoadedText
from flmm.errors import InputError, shorten
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
        picture = sample.loaded.picture
        texts = sample.loaded.texts
        questions = [self._build_question(dataset, loaded) for loaded in texts]
        answered: list[WaysOfAnswering | InputError] = []
        for start in range(0, len(questions), _QUESTIONS_AT_ONCE):
            together = questions[start : start + _QUESTIONS_AT_ONCE]
            try:
                answered += answer_in_every_way(self.pipeline, picture, together)
            except InputError:
                answered += [self._answer_alone(picture, question) for question in together]
        rows: list[AnswerRow] = []
        skipped = []
        for loaded, question, ways in zip(texts, questions, answered, strict=True):
            if isinstance(ways, InputError):
                skipped.append(f"skipped question {shorten(question.text)!r}: {ways}")
            else:
                rows += _build_rows(dataset, sample, loaded.text, question, ways)
        if skipped and not rows:
            raise next(ways for ways in answered if isinstance(ways, InputError))
        return SampleResult(build_sample_row(sample, 0, skipped), answers=tuple(rows))

    def _answer_alone(
        self, picture: Image.Image, question: Question
    ) -> WaysOfAnswering | InputError:
        try:
            return answer_in_every_way(self.pipeline, picture, [question])[0]
        except InputError as error:
            return error

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
