"""What a segmentation token costs: the LMM frozen under its head, beside copies that say ``<SEG>``.

The usual way to a grounding LMM trains it. Here it is done with the same LMM and pictures as the
head, and both sides of the bargain are measured: masks, and conversation.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from flmm.data.sources import Stickers
from flmm.embedded.recipe.build import Budget
from flmm.embedded.recipe.hardware import steps_here
from flmm.errors import InputError
from flmm.report.context import Bench, digest_of
from flmm.report.extraction import SeenPicture, head_masks
from flmm.report.markdown import table
from flmm.report.overlaps import Interval, OverlapTable, Score, measure_parts, overlaps_of
from flmm.report.segmentation_token.conversation_scores import (
    BUT_WHERE,
    CAPTION,
    TASKS,
    Talk,
    measure_talk,
)
from flmm.report.segmentation_token.token_model import (
    LEARNING_RATE,
    PICTURES_A_STEP,
    SCENES,
    TOKEN,
    TokenCopy,
    Way,
    can_be_copied,
    train,
)
from flmm.stickers.dataset import EVALUATION_SEED

STEPS = Budget().head
"""Of two cores: those that the head's recipe takes, from the same pictures."""
FROZEN = "frozen LMM + head"


@dataclass(frozen=True)
class Row:
    """One model."""

    name: str
    things: Score | None
    """Of one referring expression at a time."""
    stuff: Score | None
    talk: Talk


@dataclass(frozen=True)
class SegmentationToken:
    """The claim's results."""

    pictures: int
    steps: int
    rows: tuple[Row, ...]


def check(bench: Bench) -> None:
    """The copies learn by the embedded LMM's recipe, and are asked about what scenes hold.

    Raises:
        InputError: the data are no sticker scenes or such that copies learn from, or the LMM is of
            another make.
    """
    if not isinstance(bench.data.source, Stickers):
        raise InputError(
            f"data {bench.data.name!r} have no scenes, whose facts copies learn from and are asked"
            " about; take sticker scenes (leave out --data)"
        )
    if not can_be_copied(bench.grounder):
        raise InputError(
            f"the LMM {bench.grounder.lmm!r} was not made by the embedded LMM's recipe, by which"
            " copies learn; take the embedded one, or one that the recipe made"
        )
    if (first := min(_seeds(bench))) < SCENES:
        raise InputError(
            f"scene {first} is one of the {SCENES} that copies learn from, and cannot be measured"
            f" on; take others, such as first_scene: {EVALUATION_SEED}"
        )


def _seeds(bench: Bench) -> list[int]:
    """Of the measured scenes, after which their pictures are named."""
    return [int(sample.picture.stem) for sample in bench.data.measured]


def measure(bench: Bench) -> SegmentationToken:
    """Trains the copies, then measures all three models on the same scenes."""
    copies = [_trained(bench, way) for way in Way]

    def rows(seen: SeenPicture) -> OverlapTable:
        questions = [exchange.question for exchange in seen.asked.exchanges]
        _, refined = head_masks(bench.grounder.head, seen.features)
        found = [copy.masks(seen.asked.picture, questions) for copy in copies]
        return overlaps_of(seen, torch.stack([refined, *found], 1))

    expressions = [
        replace(sample, texts=tuple(text for text in sample.texts if text.kind == "expression"))
        for sample in bench.data.measured
    ]
    overlaps = measure_parts(bench, f"segmentation-token 1 {_budget()}", expressions, rows)
    parts = [
        overlaps.scores(chosen) if (chosen := overlaps.rows("expression", part)).any() else None
        for part in ("things", "stuff")
    ]
    names = [FROZEN, *(f"copy, {way}" for way in Way)]
    found = []
    for place, name in enumerate(names):
        things, stuff = (None if scores is None else scores[place] for scores in parts)
        adapter = copies[place - 1].adapter() if place else bench.grounder.adapter
        token = copies[place - 1].token_id if place else None
        talk = measure_talk(adapter, _seeds(bench), token, _watch(bench, name))
        found.append(Row(name, things, stuff, talk))
    return SegmentationToken(overlaps.pictures, STEPS, tuple(found))


def _trained(bench: Bench, way: Way) -> TokenCopy:
    key = {"budget": _budget(), **{part: bench.key[part] for part in ("head", "LMM", "numbers")}}
    copy = TokenCopy(bench.grounder)
    train(copy, way, bench.work / f"copies-{digest_of(key)}", steps_here(STEPS), bench.watch)
    return copy


def _budget() -> str:
    return f"{STEPS}, {PICTURES_A_STEP}, {LEARNING_RATE}, {SCENES}"


def _watch(bench: Bench, name: str) -> Callable[[int, int], None]:
    return lambda done, total: bench.watch(done, total, f"{name}: captions and questions")


def tables(results: SegmentationToken) -> str:
    """Masks and captions; answers; where the token is said."""
    rows = results.rows
    heading = (
        f"{results.pictures} pictures. F-LMM leaves the LMM as it is; the usual way trains it to"
        f" say a token, `{TOKEN}`, of which SAM makes a mask"
        " ([LISA](https://arxiv.org/abs/2308.00692)). Here copies of the same LMM learn that way:"
        " all of the LLM and the projector, an MLP from the token's state to SAM's prompt, and"
        f" SAM's prompt encoder and mask decoder, for {results.steps:,} steps of {PICTURES_A_STEP}"
        f" pictures at a learning rate of {LEARNING_RATE:g}, as many as the embedded head's recipe"
        " takes, from the same pictures (on a GPU a quarter of the steps, of four times as many),"
        " three texts a picture."
        f" LISA's way: referring expressions alone, each answered `It is {TOKEN}.` (LISA itself"
        " mixes ordinary questions in, to keep some of the conversation). GLaMM's way: for one of"
        f" the three, a caption with `{TOKEN}` after each phrase. Masks are of one referring"
        " expression at a time, which is put in the frozen LMM's mouth as the token is in the"
        ' copies\'. Captions and answers are greedy, and right word for word (of "is there", yes'
        f" or no); `{TOKEN}` does not count as a word. Before a follow-up, the right first answer"
        " is put in the model's mouth."
    )
    main = [
        [
            row.name,
            *(text for score in (row.things, row.stuff) for text in _score(score)),
            str(row.talk.named), _cell(row.talk.absent),
        ]
        for row in rows
    ]  # fmt: skip
    titles = ["", "things: cIoU", "things: mIoU", "stuff: cIoU", "stuff: mIoU",
              "captions: named of what is there", "captions: absent of what is named"]  # fmt: skip
    tasks = (*TASKS, BUT_WHERE)
    right = [[row.name, *(_cell(row.talk.right.get(task)) for task in tasks)] for row in rows]
    places = (*tasks, CAPTION)
    token = [[row.name, *(_cell(row.talk.token.get(place)) for place in places)] for row in rows]
    return "\n\n".join(
        [
            heading,
            table(titles, main),
            f"**questions answered right, of {rows[0].talk.questions:,}**",
            table(["", *tasks], right),
            f"**answers with `{TOKEN}` in them**",
            table(["", *places], token),
        ]
    )


def _score(score: Score | None) -> tuple[str, str]:
    if score is None:
        return "–", "–"
    return str(score.cumulative_iou), str(score.mean_iou)


def _cell(interval: Interval | None) -> str:
    return "–" if interval is None else str(interval)
