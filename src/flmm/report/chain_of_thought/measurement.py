"""Answers with visual chain of thought: numbers too small to read, read in a located crop."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from flmm.answers.phrase import Phrase
from flmm.data.sources import StickersSource
from flmm.errors import InputError
from flmm.evaluate.answers.ways import (
    CLOSER_LOOKS,
    LOCATE_SOURCES,
    MAX_NEW_TOKENS,
    CloserLook,
    Question,
    RegionSource,
    answer_in_every_way,
    true_region,
)
from flmm.evaluate.metrics import compute_overlap
from flmm.grounding.chain_of_thought import CropMode, LocateSource, check_two_pictures
from flmm.grounding.grounder import Grounder
from flmm.report.chain_of_thought.tag_questions import (
    TagQuestion,
    build_tag_questions,
    parse_number,
)
from flmm.report.context import ReportContext
from flmm.report.markdown import markdown_table
from flmm.report.overlaps import Interval, mean_interval

MEASURED_LOOKS = tuple(look for look in CLOSER_LOOKS if look != CloserLook("truth", "mask"))
MIN_RIGHT_IOU = 0.5
"""A located mask with at least this IoU is of the right thing."""


@dataclass(frozen=True)
class CloserLookScore:
    """Scores of one way to crop, in percent of all questions."""

    locate: RegionSource
    crop: CropMode
    right: Interval
    gain: Interval
    """Percentage points over the plain answers to the same questions."""
    over_random: Interval | None
    """Percentage points over random boxes of the same size; None if there are none."""


@dataclass(frozen=True)
class LocatingScore:
    """Results of locating from one source, in percent of all questions."""

    locate: LocateSource
    nothing: Interval
    right_thing: Interval


@dataclass(frozen=True)
class ChainOfThoughtResults:
    """The claim's results."""

    questions: int
    """Number of questions, one a scene."""
    chance: float
    """Percent of questions whose right number is the most frequent one."""
    plain: Interval
    """Percent of right numbers in plain answers, without a crop."""
    ways: tuple[CloserLookScore, ...]
    locating: tuple[LocatingScore, ...]


@dataclass(frozen=True)
class QuestionOutcome:
    """Results of one question, answered plainly and with every crop."""

    number: int
    plain: bool
    """Whether the plain answer has the right number."""
    right: dict[CloserLook, bool]
    nothing: dict[LocateSource, bool]
    right_thing: dict[LocateSource, bool]


def check(context: ReportContext) -> None:
    """Check that there is a head, the data have tags and the LMM takes two pictures.

    Raises:
        InputError: there is no head, the data are no sticker scenes, or the LMM takes only one
            picture.
    """
    context.require_head()
    if not isinstance(context.data.source, StickersSource):
        raise InputError(
            f"data {context.data.name!r} have no numbers on tags, which chain-of-thought asks for;"
            " leave out --data to measure it on sticker scenes"
        )
    grounder = context.grounder
    check_two_pictures(grounder.adapter, grounder.lmm)


def measure(context: ReportContext) -> ChainOfThoughtResults:
    """Ask for every number plainly and with every crop, and compute the scores."""
    questions = build_tag_questions(len(context.data.measured), first_scene_seed(context))
    outcomes = []
    for index, question in enumerate(questions):
        outcomes.append(answer_question(context.grounder, question, index))
        context.on_progress(index + 1, len(questions), "chain-of-thought")
    plain = _to_tensor(outcome.plain for outcome in outcomes)
    right = {
        way: _to_tensor(outcome.right[way] for outcome in outcomes) for way in outcomes[0].right
    }
    ways = tuple(
        CloserLookScore(
            look.locate, look.crop, mean_interval(marks), mean_interval(marks - plain),
            None if look.locate == "truth" or look.crop == "random"
            else mean_interval(marks - right[CloserLook(look.locate, "random")]),
        )
        for look, marks in right.items()
    )  # fmt: skip
    locating = tuple(
        LocatingScore(
            locate,
            mean_interval(_to_tensor(outcome.nothing[locate] for outcome in outcomes)),
            mean_interval(_to_tensor(outcome.right_thing[locate] for outcome in outcomes)),
        )
        for locate in LOCATE_SOURCES
    )
    ((_, highest_count),) = Counter(outcome.number for outcome in outcomes).most_common(1)
    chance = 100 * highest_count / len(outcomes)
    return ChainOfThoughtResults(len(outcomes), chance, mean_interval(plain), ways, locating)


def first_scene_seed(context: ReportContext) -> int:
    """Return the first measured scene's seed, which is the name of its picture file."""
    return int(context.data.measured[0].picture.stem)


def _to_tensor(outcomes: Iterable[bool]) -> Tensor:
    """Return (n,) float64: 1 for true, 0 for false."""
    return torch.tensor(list(outcomes), dtype=torch.float64)


def answer_question(grounder: Grounder, question: TagQuestion, seed: int) -> QuestionOutcome:
    """Answer the question plainly and with every crop; ``seed`` is of its random crops."""
    text = question.turn.question
    (ways,) = answer_in_every_way(
        grounder.pipeline,
        question.picture,
        [Question(text, text, ground_truth_phrase(question), seed)],
        MEASURED_LOOKS,
        MAX_NEW_TOKENS,
    )
    plain = parse_number(ways.plain) == question.number
    right = {look: parse_number(second.text) == question.number
             for look, second in ways.closer.items()}  # fmt: skip
    located = {source: ways.closer[CloserLook(source, "box")].located for source in LOCATE_SOURCES}
    return QuestionOutcome(
        question.number,
        plain,
        right,
        {source: phrase is None for source, phrase in located.items()},
        {source: locates_right_thing(phrase, question) for source, phrase in located.items()},
    )


def locates_right_thing(located: Phrase | None, question: TagQuestion) -> bool:
    """Return whether a located mask is of the thing that the question is about."""
    if located is None:
        return False
    mask, truth = (torch.from_numpy(mask)[None] for mask in (located.mask, question.mask))
    return compute_overlap(mask, truth).iou.item() >= MIN_RIGHT_IOU


def ground_truth_phrase(question: TagQuestion) -> Phrase:
    """Return the true mask as a located phrase."""
    mention = question.turn.mentions[0]
    text = question.turn.answer[mention.start : mention.end]
    return true_region(text, mention.start, mention.end, question.mask)


REGION_SOURCE_LABELS = {
    "answer": "the first answer",
    "question": "the question",
    "truth": "the true mask",
}
CROP_LABELS = {"box": "its box", "mask": "its box, the rest grey", "random": "a random box"}


def render_tables(results: ChainOfThoughtResults) -> str:
    """Return tables of right numbers and of located things."""
    heading = (
        f'{results.questions:,} questions such as "What number is on the cat?", one a scene that'
        " the model never saw. The number, from 1 to 9, is on a tag that is too small to read where"
        " the LMM sees the whole picture. It is asked plainly, and again with a part of the picture"
        " beside it: the square around what was located, from what the first answer names or from"
        " the question's own words; the same with all but the mask in grey; a square of the same"
        " size anywhere; and, as an upper bound, the square around the true mask. Gains are in"
        " points, paired by question. Where nothing was located, the whole picture is looked at"
        f" again, and the answer counts. Always saying the most frequent number would be right in"
        f" {results.chance:.1f} %."
    )
    rows = [["nothing (plain answer)", "", str(results.plain), "", ""]]
    rows += [
        [
            CROP_LABELS[way.crop], REGION_SOURCE_LABELS[way.locate], str(way.right),
            _format_gain(way.gain),
            "" if way.over_random is None else _format_gain(way.over_random),
        ]
        for way in results.ways
    ]  # fmt: skip
    titles = ["looked at again", "located from", "right numbers", "gain over the plain answer",
              "gain over a random box"]  # fmt: skip
    located_rows = [
        [REGION_SOURCE_LABELS[score.locate], str(score.nothing), str(score.right_thing)]
        for score in results.locating
    ]
    located_titles = ["located from", "nothing located", f"the right thing (IoU ≥ {MIN_RIGHT_IOU})"]
    tables = (markdown_table(titles, rows), markdown_table(located_titles, located_rows))
    return "\n\n".join([heading, *tables])


def _format_gain(gain: Interval) -> str:
    return f"{gain.value:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})"
