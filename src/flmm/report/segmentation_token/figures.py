"""The figure of ``SegmentationTokenResults``: masks on the left, conversation on the right."""

from pathlib import Path
from typing import TYPE_CHECKING

from flmm.report.context import ReportContext
from flmm.report.overlaps import Interval, Score
from flmm.report.segmentation_token.conversation_scores import ALL_BUT_WHERE
from flmm.report.segmentation_token.measurement import FROZEN_MODEL, SegmentationTokenResults
from flmm.report.segmentation_token.token_model import SEG_TOKEN
from flmm.report.style import ALL_COLOUR, LIGHT_GREY, PALETTE, PART_COLOURS, draw_grid, open_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Series = tuple[str, str, str, list[Interval | None]]
"""Name, colour, marker, and an interval for each model."""


def draw_scores(results: SegmentationTokenResults, file: Path) -> None:
    """Draw the scores of masks beside those of conversation."""
    rows = results.rows
    masks: list[_Series] = [
        (
            "things (cIoU)",
            PART_COLOURS["things"],
            "o",
            [_cumulative_iou(row.things) for row in rows],
        ),
        ("stuff (cIoU)", PART_COLOURS["stuff"], "s", [_cumulative_iou(row.stuff) for row in rows]),
    ]
    conversation: list[_Series] = [
        ("captions: named", PALETTE[2], "D", [row.talk.named for row in rows]),
        ("questions: right", PALETTE[3], "^", [row.talk.right.get(ALL_BUT_WHERE) for row in rows]),
        (
            "answers with <SEG>",
            ALL_COLOUR,
            "x",
            [row.talk.token.get(ALL_BUT_WHERE) for row in rows],
        ),
    ]
    names = [row.name.replace(", ", "\n") for row in rows]
    with open_figure(file, 2.6) as figure:
        left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [1, 1.3]})
        _draw_panel(left, "Grounding", masks)
        _draw_panel(right, "Conversation", conversation)
        left.set_yticks(range(len(names)), names)
        left.set_ylim(len(names) - 0.5, -0.5)
        # Shade the frozen LMM's row, apart from those of trained copies.
        frozen = [row.name for row in rows].index(FROZEN_MODEL)
        for axes in (left, right):
            axes.axhspan(frozen - 0.5, frozen + 0.5, color=LIGHT_GREY, alpha=0.4, zorder=0)


def _cumulative_iou(score: Score | None) -> Interval | None:
    return None if score is None else score.cumulative_iou


def _draw_panel(axes: "Axes", title: str, series: list[_Series]) -> None:
    for index, (name, colour, marker, values) in enumerate(series):
        shift = 0.22 * (index - (len(series) - 1) / 2)
        points = [(row + shift, value) for row, value in enumerate(values) if value is not None]
        axes.errorbar(
            [score.value for _, score in points], [row for row, _ in points],
            xerr=[[score.value - score.low for _, score in points],
                  [score.high - score.value for _, score in points]],
            fmt=marker, markersize=5.5, color=colour, elinewidth=1.4, label=name,
        )  # fmt: skip
    axes.set_xlim(-3, 103)
    axes.set_xlabel("%")
    axes.set_title(title)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=len(series), fontsize=7.5,
                handletextpad=0.2, columnspacing=0.9)  # fmt: skip
    draw_grid(axes, "x")
    axes.spines["left"].set_visible(False)


def draw_figures(
    results: SegmentationTokenResults, _context: ReportContext, out: Path
) -> dict[str, str]:
    """Draw the claim's figure; return its caption by file name."""
    draw_scores(results, out / "segmentation-token.png")
    return {
        "segmentation-token.png": "What training an LMM to segment gives, and what it takes. Left:"
        " masks of referring expressions. Right: captions and answers of the same three models"
        f' (questions: all but "where", which copies learn to answer with {SEG_TOKEN}). Bars: 95 %'
        " intervals over pictures."
    }
