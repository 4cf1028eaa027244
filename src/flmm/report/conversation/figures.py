"""The figure of ``ConversationResults``: how much recording changes logits."""

from pathlib import Path

import numpy as np

from flmm.report.context import ReportContext
from flmm.report.conversation.measurement import ConversationResults
from flmm.report.style import DARK_GREY, PALETTE, draw_grid, open_figure

_COLOURS = (PALETTE[1], PALETTE[0])


def draw_differences(results: ConversationResults, file: Path) -> None:
    """Draw the largest change of a logit in each answer."""
    random = np.random.default_rng(0)
    # The axis is linear below the smallest change's power of ten, so that 0 is set apart.
    differences = [difference for way in results.ways for difference in way.differences]
    smallest = min((difference for difference in differences if difference), default=1e-6)
    step = 10.0 ** np.floor(np.log10(smallest))
    with open_figure(file, 1.75) as figure:
        axes = figure.subplots()
        for row, way in enumerate(results.ways):
            heights = row + random.uniform(-0.26, 0.26, len(way.differences))
            axes.scatter(
                way.differences, heights, s=9, color=_COLOURS[row], alpha=0.35, linewidths=0
            )
            axes.annotate(
                f"{way.same_logits:,} of {results.answers:,} answers bit-identical",
                (max(way.differences), row), xytext=(9, 0), textcoords="offset points",
                va="center", fontsize=7.5, color=DARK_GREY,
            )  # fmt: skip
        axes.set_xscale("symlog", linthresh=step, linscale=0.5)
        axes.set_xlim(-step / 3, max(*differences, step) * 300)
        axes.set_yticks(range(len(results.ways)), [way.way for way in results.ways])
        axes.set_ylim(len(results.ways) - 0.5, -0.5)
        axes.set_xlabel("largest change of a logit (log scale; 0: not one bit)")
        draw_grid(axes, "x")
        axes.spines["left"].set_visible(False)


def draw_figures(
    results: ConversationResults, _context: ReportContext, out: Path
) -> dict[str, str]:
    """Draw the claim's figure; return its caption by file name."""
    draw_differences(results, out / "conversation.png")
    return {
        "conversation.png": "Largest change of any logit of an answer (a dot each, n ="
        f" {results.answers:,}) against the LMM alone."
    }
