"""The cost of a segmentation token: the frozen LMM with its head, beside trained copies.

Most grounding LMMs are trained to generate a segmentation token. Here copies of the head's LMM are,
on the head's training pictures; masks and conversation of both are measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from flmm.data.sources import StickersSource
from flmm.embedded_model.recipe.build import TrainingBudget
from flmm.embedded_model.recipe.hardware import scale_steps
from flmm.errors import InputError
from flmm.report.context import ReportContext, key_digest
from flmm.report.extraction import ExtractedPicture, predict_head_masks
from flmm.report.markdown import markdown_table
from flmm.report.overlaps import Interval, OverlapTable, Score, compute_overlaps, measure_overlaps
from flmm.report.segmentation_token.conversation_scores import (
    ALL_BUT_WHERE,
    CAPTION,
    TASKS,
    ConversationScores,
    measure_conversation,
)
from flmm.report.segmentation_token.embedded_token_model import (
    EmbeddedTokenModel,
    supports_copying,
)
from flmm.report.segmentation_token.token_model import SEG_TOKEN, TokenModel
from flmm.report.segmentation_token.token_training import (
    BATCH_SIZE,
    LEARNING_RATE,
    TRAINING_SCENES,
    TrainingScheme,
    train,
)
from flmm.stickers.dataset import EVALUATION_SEED

STEPS = TrainingBudget().head_steps
"""Training steps on two cores: as many as the head's recipe takes."""
FROZEN_MODEL = "frozen LMM + head"
MASK_TITLES = ("things: cIoU", "things: mIoU", "stuff: cIoU", "stuff: mIoU")


@dataclass(frozen=True)
class ModelScores:
    """Scores of one model."""

    name: str
    things: Score | None
    """Of masks of one referring expression at a time; None without phrases, as for stuff."""
    stuff: Score | None
    talk: ConversationScores


@dataclass(frozen=True)
class SegmentationTokenResults:
    """The claim's results."""

    pictures: int
    steps: int
    rows: tuple[ModelScores, ...]


def check(context: ReportContext) -> None:
    """Check that there is a head, and that copies can be trained, and measured on these data.

    Raises:
        InputError: there is no head; the data are no sticker scenes, or scenes of the training; or
            the LMM was not made by the embedded LMM's recipe.
    """
    context.require_head()
    if not isinstance(context.data.source, StickersSource):
        raise InputError(
            f"data {context.data.name!r} have no scenes, whose facts copies learn from and are"
            " asked about; take sticker scenes (leave out --data)"
        )
    if not supports_copying(context.grounder):
        raise InputError(
            f"the LMM {context.grounder.lmm!r} was not made by the embedded LMM's recipe, by which"
            " copies learn; take the embedded one, or one that the recipe made"
        )
    if (first := min(_scene_seeds(context))) < TRAINING_SCENES:
        raise InputError(
            f"scene {first} is one of the {TRAINING_SCENES} that copies learn from, and cannot be"
            f" measured on; take others, such as first_scene: {EVALUATION_SEED}"
        )


def _scene_seeds(context: ReportContext) -> list[int]:
    """Return the measured scenes' seeds, which are the names of their picture files."""
    return [int(sample.picture.stem) for sample in context.data.measured]


def measure(context: ReportContext) -> SegmentationTokenResults:
    """Train the copies, then measure all three models on the same scenes."""
    copies = [_train_copy(context, scheme) for scheme in TrainingScheme]
    masks = measure_masks(context, copies, f"segmentation-token 1 {_training_budget()}")
    names = [FROZEN_MODEL, *(f"copy, {scheme}" for scheme in TrainingScheme)]
    rows = []
    for index, name in enumerate(names):
        adapter = copies[index - 1].build_adapter() if index else context.grounder.adapter
        token_id = copies[index - 1].token_id if index else None
        conversation = measure_conversation(
            adapter, _scene_seeds(context), token_id, _progress_callback(context, name)
        )
        rows.append(ModelScores(name, *masks.scores[index], conversation))
    return SegmentationTokenResults(masks.pictures, STEPS, tuple(rows))


@dataclass(frozen=True)
class MaskScores:
    """Scores of masks of one referring expression at a time."""

    pictures: int
    scores: tuple[tuple[Score | None, Score | None], ...]
    """Of things and of stuff, None without any: of the head's refined masks, then each copy's."""


def measure_masks(
    context: ReportContext, copies: Sequence[TokenModel], cache_name: str
) -> MaskScores:
    """Measure the masks of the frozen LMM's head and of trained copies on the same phrases.

    Args:
        context: the LMM, its head and the measured pictures, which have referring expressions.
        copies: the copies.
        cache_name: as in ``measure_overlaps``; it tells copies that were trained otherwise apart.
    """

    def measure_picture(extracted: ExtractedPicture) -> OverlapTable:
        questions = [exchange.question for exchange in extracted.picture_exchanges.exchanges]
        _, refined = predict_head_masks(context.require_head(), extracted.features)
        copied = [
            copy.predict_masks(extracted.picture_exchanges.picture, questions) for copy in copies
        ]
        return compute_overlaps(extracted, torch.stack([refined, *copied], 1))

    expressions = [
        replace(sample, texts=tuple(text for text in sample.texts if text.kind == "expression"))
        for sample in context.data.measured
    ]
    overlaps = measure_overlaps(context, cache_name, expressions, measure_picture)
    things, stuff = (
        overlaps.compute_scores(selected)
        if (selected := overlaps.select_rows("expression", part)).any()
        else [None] * (1 + len(copies))
        for part in ("things", "stuff")
    )
    return MaskScores(overlaps.num_pictures, tuple(zip(things, stuff, strict=True)))


def _train_copy(context: ReportContext, scheme: TrainingScheme) -> EmbeddedTokenModel:
    key = {
        "budget": _training_budget(),
        **{part: context.cache_key[part] for part in ("head", "LMM", "numbers")},
    }
    copy = EmbeddedTokenModel(context.grounder)
    train(
        copy,
        scheme,
        context.work_folder / f"copies-{key_digest(key)}",
        scale_steps(STEPS),
        context.on_progress,
    )
    return copy


def _training_budget() -> str:
    return f"{STEPS}, {BATCH_SIZE}, {LEARNING_RATE}, {TRAINING_SCENES}"


def _progress_callback(context: ReportContext, name: str) -> Callable[[int, int], None]:
    return lambda done, total: context.on_progress(done, total, f"{name}: captions and questions")


def render_tables(results: SegmentationTokenResults) -> str:
    """Return tables of masks and captions, of right answers, and of answers with the token."""
    rows = results.rows
    heading = (
        f"{results.pictures} pictures. F-LMM leaves the LMM as it is; the usual way trains it to"
        f" say a token, `{SEG_TOKEN}`, of which SAM makes a mask"
        " ([LISA](https://arxiv.org/abs/2308.00692)). Here copies of the same LMM learn that way:"
        " all of the LLM and the projector, an MLP from the token's state to SAM's prompt, and"
        f" SAM's prompt encoder and mask decoder, for {results.steps:,} steps of {BATCH_SIZE}"
        f" pictures at a learning rate of {LEARNING_RATE:g}, as many as the embedded head's recipe"
        " takes, from the same pictures (on a GPU a quarter of the steps, of four times as many),"
        " three texts a picture."
        f" LISA's way: referring expressions alone, each answered `It is {SEG_TOKEN}.` (LISA itself"
        " mixes ordinary questions in, to keep some of the conversation). GLaMM's way: for one of"
        f" the three, a caption with `{SEG_TOKEN}` after each phrase. Masks are of one referring"
        " expression at a time, which is put in the frozen LMM's mouth as the token is in the"
        ' copies\'. Captions and answers are greedy, and right word for word (of "is there", yes'
        f" or no); `{SEG_TOKEN}` does not count as a word. Before a follow-up, the right first"
        " answer is put in the model's mouth."
    )
    main = [
        [
            row.name,
            *(text for score in (row.things, row.stuff) for text in score_cells(score)),
            str(row.talk.named), _interval_cell(row.talk.absent),
        ]
        for row in rows
    ]  # fmt: skip
    titles = [
        "", *MASK_TITLES, "captions: named of what is there", "captions: absent of what is named"
    ]  # fmt: skip
    tasks = (*TASKS, ALL_BUT_WHERE)
    right = [
        [row.name, *(_interval_cell(row.talk.right.get(task)) for task in tasks)] for row in rows
    ]
    texts = (*tasks, CAPTION)
    token = [
        [row.name, *(_interval_cell(row.talk.token.get(text)) for text in texts)] for row in rows
    ]
    return "\n\n".join(
        [
            heading,
            markdown_table(titles, main),
            f"**questions answered right, of {rows[0].talk.questions:,}**",
            markdown_table(["", *tasks], right),
            f"**answers with `{SEG_TOKEN}` in them**",
            markdown_table(["", *texts], token),
        ]
    )


def score_cells(score: Score | None) -> tuple[str, str]:
    """Return the texts of cIoU and mIoU, dashes for None."""
    if score is None:
        return "–", "–"
    return str(score.cumulative_iou), str(score.mean_iou)


def _interval_cell(interval: Interval | None) -> str:
    return "–" if interval is None else str(interval)
