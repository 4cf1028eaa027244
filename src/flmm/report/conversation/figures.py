"""Draws ``conversation.Conversation``: how far each way of looking on changes logits."""

from pathlib import Path

import numpy as np

from flmm.report.context import ReportContext
from flmm.report.conversation.measurement import ConversationResults
from flmm.report.style import DARK_GREY, PALETTE, draw_grid, open_figure

_COLOURS = (PALETTE[1], PALETTE[0])


def draw_differences(results: ConversationResults, file: Path) -> None:
    """Writes the figure."""
    random = np.random.default_rng(0)
    # What is not 0 stands far enough right of it, whatever the numbers' precision.
    least = min((gap for way in results.ways for gap in way.differences if gap), default=1e-6)
    step = 10.0 ** np.floor(np.log10(least))
    with open_figure(file, 1.75) as drawn:
        axes = drawn.subplots()
        for place, way in enumerate(results.ways):
            high = place + random.uniform(-0.26, 0.26, len(way.differences))
            axes.scatter(
                way.differences, high, s=9, color=_COLOURS[place], alpha=0.35, linewidths=0
            )
            axes.annotate(
                f"{way.same_logits:,} of {results.answers:,} answers bit-identical",
                (max(way.differences), place), xytext=(9, 0), textcoords="offset points",
                va="center", fontsize=7.5, color=DARK_GREY,
            )  # fmt: skip
        axes.set_xscale("symlog", linthresh=step, linscale=0.5)
        highest = max(max(way.differences) for way in results.ways)
        axes.set_xlim(-step / 3, max(highest, step) * 300)
        axes.set_yticks(range(len(results.ways)), [way.way for way in results.ways])
        axes.set_ylim(len(results.ways) - 0.5, -0.5)
        axes.set_xlabel("largest change of a logit (log scale; 0: not one bit)")
        draw_grid(axes, "x")
        axes.spines["left"].set_visible(False)


def draw_figures(
    results: ConversationResults, _context: ReportContext, out: Path
) -> dict[str, str]:
    """How much logits change."""
    draw_differences(results, out / "conversation.png")
    return {
        "conversation.png": "Largest change of any logit of an answer (a dot each, n ="
        f" {results.answers:,}) against the LMM alone."
    }
