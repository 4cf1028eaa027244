"""The figures of ``ChainOfThoughtResults``: right numbers with every crop, and examples."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flmm.answers.overlay import draw_mask, resize_for_viewing
from flmm.answers.palette import PHRASE_COLOURS
from flmm.evaluate.answers.ways import MAX_NEW_TOKENS
from flmm.grounding.chain_of_thought import Thought
from flmm.report.chain_of_thought.measurement import (
    CROP_LABELS,
    REGION_SOURCE_LABELS,
    ChainOfThoughtResults,
    first_scene_seed,
)
from flmm.report.chain_of_thought.tag_questions import (
    TagQuestion,
    build_tag_questions,
    parse_number,
)
from flmm.report.context import ReportContext
from flmm.report.overlaps import Interval
from flmm.report.style import ALL_COLOUR, DARK_GREY, PALETTE, draw_grid, open_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_EXAMPLES = 3
_SOURCE_COLOURS = {"answer": PALETTE[1], "question": PALETTE[0], "truth": PALETTE[2]}
_LINE_LENGTH, _BOLD_LINE_LENGTH = 40, 32
"""Characters in a line of an example's text."""


def draw_scores(results: ChainOfThoughtResults, file: Path) -> None:
    """Draw one row for each way to crop, below the plain answers."""
    names = ["no closer look"]
    with open_figure(file, 2.9) as figure:
        axes = figure.subplots()
        _draw_score(axes, 0, results.plain, ALL_COLOUR)
        for row, way in enumerate(results.ways, 1):
            names.append(CROP_LABELS[way.crop])
            colour = _SOURCE_COLOURS[way.locate]
            _draw_score(axes, row, way.right, colour, hollow=way.crop == "random")
            axes.annotate(
                f"{way.gain.value:+.0f}", (1, row), xycoords=("axes fraction", "data"),
                ha="right", va="center", fontsize=7.5, color=colour,
            )  # fmt: skip
        axes.annotate(
            "gain", (1, 0), xycoords=("axes fraction", "data"), ha="right", va="center",
            fontsize=7.5, color=DARK_GREY,
        )  # fmt: skip
        for locate, colour in _SOURCE_COLOURS.items():
            axes.plot(
                [], [], "o", color=colour, label=f"located from {REGION_SOURCE_LABELS[locate]}"
            )
        axes.axvline(results.plain.value, color=ALL_COLOUR, linewidth=0.8, linestyle=(0, (5, 3)))
        axes.axvline(results.chance, color=ALL_COLOUR, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        # Room for the gains on the right.
        axes.set_xlim(-2, 115)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel(f"right numbers (% of {results.questions:,})")
        draw_grid(axes, "x")
        axes.spines["left"].set_visible(False)
        figure.legend(loc="outside lower center", ncols=len(_SOURCE_COLOURS))


def _draw_score(axes: "Axes", row: int, score: Interval, colour: str, hollow: bool = False) -> None:
    axes.errorbar(
        score.value, row, xerr=[[score.value - score.low], [score.high - score.value]],
        fmt="o", markersize=5.5, color=colour, elinewidth=1.4,
        markerfacecolor="white" if hollow else colour,
    )  # fmt: skip
    axes.annotate(
        f"{score.value:.0f}", (score.high, row), xytext=(6, 0), textcoords="offset points",
        va="center", fontsize=7, color=colour,
    )  # fmt: skip


def draw_examples(
    questions: Sequence[TagQuestion], thoughts: Sequence[Thought], file: Path
) -> None:
    """Draw one column for each question: picture, located region, crop and both answers."""
    with open_figure(file, 6.2, photographs=True) as figure:
        grid = figure.subplots(2, len(questions), squeeze=False)
        for column, question, thought in zip(grid.T, questions, thoughts, strict=True):
            _draw_picture(column[0], thought)
            _draw_crop(column[1], question, thought)
            for axes in column:
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)


def _draw_picture(axes: "Axes", thought: Thought) -> None:
    from matplotlib.patches import Rectangle

    shown = resize_for_viewing(thought.first.picture)
    canvas = np.asarray(shown, dtype=np.float32).copy()
    if thought.located is not None:
        draw_mask(canvas, thought.located.mask, PHRASE_COLOURS[1], line_width=3)
    axes.imshow(canvas.round().clip(0, 255).astype(np.uint8))
    scale = shown.width / thought.first.picture.width
    x0, y0, x1, y1 = (edge * scale for edge in thought.box)
    for width, colour in ((3.0, "white"), (1.4, DARK_GREY)):
        axes.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width)
        )
    question = textwrap.fill(thought.question, _BOLD_LINE_LENGTH)
    axes.set_title(question, fontsize=7.5, loc="center")
    located = "nothing" if thought.located is None else f'"{thought.located.text}"'
    axes.set_xlabel(textwrap.fill(f"located: {located}", _LINE_LENGTH), fontsize=7)


def _draw_crop(axes: "Axes", question: TagQuestion, thought: Thought) -> None:
    axes.imshow(np.asarray(thought.crop))
    lines = []
    for when, text in (("before", thought.first.text), ("after", thought.answer.text)):
        mark = "right" if parse_number(text) == question.number else "wrong"
        lines.append(textwrap.fill(f"{when} ({mark}): {text}", _LINE_LENGTH))
    axes.set_xlabel("\n".join(lines), fontsize=7)


def draw_figures(
    results: ChainOfThoughtResults, context: ReportContext, out: Path
) -> dict[str, str]:
    """Draw the claim's figures; return their captions by file name."""
    draw_scores(results, out / "chain-of-thought.png")
    questions = build_tag_questions(min(results.questions, NUM_EXAMPLES), first_scene_seed(context))
    thoughts = [
        context.grounder.think(
            question.picture, question.turn.question, max_new_tokens=MAX_NEW_TOKENS
        )
        for question in questions
    ]
    draw_examples(questions, thoughts, out / "chain-of-thought-examples.png")
    return {
        "chain-of-thought.png": "Right numbers without and with a closer look; bars: 95 % intervals"
        " over scenes. Hollow: random boxes, the control. Dashed: plain answers; dotted: always the"
        " most frequent number.",
        "chain-of-thought-examples.png": "The first questions, answered before and after a closer"
        " look: what was located from the first answer, its box, and the part that was looked at"
        " again.",
    }
