"""A closer look helps: numbers that are too small to read, read in a part that was located."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from flmm.answers.answer import Phrase
from flmm.data.sources import Stickers
from flmm.errors import InputError
from flmm.evaluate.metrics import mask_overlap
from flmm.grounding.chain_of_thought import Crop, Locate, Plan, check_two_pictures, crop_located
from flmm.grounding.grounder import Grounder
from flmm.pictures.geometry import mask_box
from flmm.report.chain_of_thought.tag_questions import TagQuestion, number_in, tag_questions
from flmm.report.context import Bench
from flmm.report.markdown import table
from flmm.report.overlaps import Interval, mean_interval

Located = Literal["answer", "question", "truth"]
"""Whose mask is looked at again: as ``thinking.Locate``, or the true one."""

LOCATES: tuple[Locate, ...] = ("answer", "question")
CROPS: tuple[Crop, ...] = ("box", "mask", "random")
RIGHT_THING = 0.5
"""From this IoU on, a located mask is of the right thing."""
TOKENS = 64
"""Of each answer at most."""


@dataclass(frozen=True)
class Way:
    """One way to look again, in percent of all questions."""

    locate: Located
    crop: Crop
    right: Interval
    gain: Interval
    """In points over the plain answers to the same questions."""
    over_random: Interval | None
    """In points over random boxes of the same size; None where there are none."""


@dataclass(frozen=True)
class Locating:
    """What one way to locate found, in percent of all questions."""

    locate: Locate
    nothing: Interval
    right_thing: Interval


@dataclass(frozen=True)
class ChainOfThought:
    """The claim's results."""

    questions: int
    """One a scene."""
    chance: float
    """Percent: how often the most frequent number is right."""
    plain: Interval
    """Percent of right numbers without a closer look."""
    ways: tuple[Way, ...]
    locating: tuple[Locating, ...]


@dataclass(frozen=True)
class Outcome:
    """One question, answered in every way."""

    number: int
    plain: bool
    """Whether the answer has the right number."""
    right: dict[tuple[Located, Crop], bool]
    nothing: dict[Locate, bool]
    right_thing: dict[Locate, bool]


def check(bench: Bench) -> None:
    """Whether there is something to ask, and an LMM that can look twice.

    Raises:
        InputError: the data are no sticker scenes, or the LMM cannot be shown two pictures.
    """
    if not isinstance(bench.data.source, Stickers):
        raise InputError(
            f"data {bench.data.name!r} have no numbers on tags, which chain-of-thought asks for;"
            " leave out --data to measure it on sticker scenes"
        )
    grounder = bench.grounder
    check_two_pictures(grounder.adapter, grounder.lmm, Image.new("RGB", (64, 64)), "What is it?")


def measure(bench: Bench) -> ChainOfThought:
    """Asks for every number plainly, and after every kind of closer look."""
    questions = tag_questions(len(bench.data.measured), first_scene(bench))
    outcomes = []
    for place, question in enumerate(questions):
        outcomes.append(answered(bench.grounder, question, place))
        bench.watch(place + 1, len(questions), "chain-of-thought")
    plain = _marks(outcome.plain for outcome in outcomes)
    right = {way: _marks(one.right[way] for one in outcomes) for way in outcomes[0].right}
    ways = tuple(
        Way(
            locate, crop, mean_interval(marks), mean_interval(marks - plain),
            None if locate == "truth" or crop == "random"
            else mean_interval(marks - right[locate, "random"]),
        )
        for (locate, crop), marks in right.items()
    )  # fmt: skip
    locating = tuple(
        Locating(
            locate,
            mean_interval(_marks(outcome.nothing[locate] for outcome in outcomes)),
            mean_interval(_marks(outcome.right_thing[locate] for outcome in outcomes)),
        )
        for locate in LOCATES
    )
    ((_, most),) = Counter(outcome.number for outcome in outcomes).most_common(1)
    chance = 100 * most / len(outcomes)
    return ChainOfThought(len(outcomes), chance, mean_interval(plain), ways, locating)


def first_scene(bench: Bench) -> int:
    """Its seed, after which the first measured picture is named."""
    return int(bench.data.measured[0].picture.stem)


def _marks(marks: Iterable[bool]) -> Tensor:
    """(n,) float64: 1 for yes, 0 for no."""
    return torch.tensor(list(marks), dtype=torch.float64)


def answered(grounder: Grounder, question: TagQuestion, seed: int) -> Outcome:
    """The question in every way; ``seed`` is that of its random crops."""
    picture, text = question.picture, question.turn.question
    right: dict[tuple[Located, Crop], bool] = {}
    nothing: dict[Locate, bool] = {}
    right_thing: dict[Locate, bool] = {}

    def look_again(located: Phrase | None, crop: Crop) -> bool:
        # As `Grounder.think` does once something is located: it need not be located again.
        part, _ = crop_located(picture, located, Plan(crop=crop, seed=seed))
        prompt = grounder.adapter.prepare([picture, part], text)
        said = grounder.adapter.generate(prompt, TOKENS).text
        return number_in(said) == question.number

    plain = False
    for locate in LOCATES:
        thought = grounder.think(picture, text, locate=locate, max_new_tokens=TOKENS)
        if locate == "answer":
            plain = number_in(thought.first.text) == question.number
        nothing[locate] = thought.located is None
        right_thing[locate] = _is_right_thing(thought.located, question)
        right[locate, "box"] = number_in(thought.answer.text) == question.number
        for crop in CROPS[1:]:
            right[locate, crop] = look_again(thought.located, crop)
    right["truth", "box"] = look_again(_true_phrase(question), "box")
    return Outcome(question.number, plain, right, nothing, right_thing)


def _is_right_thing(located: Phrase | None, question: TagQuestion) -> bool:
    if located is None:
        return False
    found, truth = (torch.from_numpy(mask)[None] for mask in (located.mask, question.mask))
    return mask_overlap(found, truth).iou.item() >= RIGHT_THING


def _true_phrase(question: TagQuestion) -> Phrase:
    """The true mask as if it were located."""
    mention = question.turn.mentions[0]
    box = mask_box(torch.from_numpy(question.mask))
    assert box is not None, "things do not hide each other"
    text = question.turn.answer[mention.start : mention.end]
    return Phrase(text, mention.start, mention.end, (), question.mask, box, 1.0)


LOCATED_FROM = {"answer": "the first answer", "question": "the question", "truth": "the true mask"}
LOOKED_AT = {"box": "its box", "mask": "its box, the rest grey", "random": "a random box"}


def tables(results: ChainOfThought) -> str:
    """Right numbers, and what was located."""
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
            LOOKED_AT[way.crop], LOCATED_FROM[way.locate], str(way.right), _points(way.gain),
            "" if way.over_random is None else _points(way.over_random),
        ]
        for way in results.ways
    ]  # fmt: skip
    titles = ["looked at again", "located from", "right numbers", "gain over the plain answer",
              "gain over a random box"]  # fmt: skip
    found = [
        [LOCATED_FROM[one.locate], str(one.nothing), str(one.right_thing)]
        for one in results.locating
    ]
    located = ["located from", "nothing located", f"the right thing (IoU ≥ {RIGHT_THING})"]
    return f"{heading}\n\n{table(titles, rows)}\n\n{table(located, found)}"


def _points(gain: Interval) -> str:
    """A gain with its sign."""
    return f"{gain.value:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})"
