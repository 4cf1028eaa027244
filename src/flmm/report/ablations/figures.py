"""The figure of ``AblationResults``: one row for each variant, grouped by what is compared."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flmm.report.ablations.measurement import AblationResults, AblationScore
from flmm.report.ablations.small_heads import BASELINE
from flmm.report.context import ReportContext
from flmm.report.style import PART_COLOURS, draw_grid, open_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GROUP_ORDER = (
    "maps of", "refiner's prompts", "merge of tokens", "maps divided by their sum",
    "input enlarged to", "maps kept",
)  # fmt: skip
_BASELINE_NAMES = {
    "maps of": "LMM attention", "refiner's prompts": "none (mask decoder)",
    "merge of tokens": "mean", "maps divided by their sum": "yes", "input enlarged to": "64",
    "maps kept": "all",
}  # fmt: skip


def draw_scores(results: AblationResults, file: Path) -> None:
    """Draw one panel for each group of variants."""
    groups = [(group, _group_scores(results, group)) for group in _GROUP_ORDER]
    groups = [(group, lines) for group, lines in groups if len(lines) > 1]
    halves = (groups[:2], groups[2:])
    heights = [[len(lines) + 1.6 for _, lines in half] for half in halves]
    with open_figure(file, 0.21 * max(map(sum, heights)) + 0.5) as figure:
        columns = figure.subfigures(1, 2)
        assert isinstance(columns, np.ndarray)
        left, right = columns
        for column, half, ratios in zip((left, right), halves, heights, strict=True):
            grid = column.subplots(
                len(half), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": ratios}
            )
            for axes, (group, lines) in zip(grid[:, 0], half, strict=True):
                _draw_panel(axes, group, lines)
            grid[-1, 0].set_xlabel("cIoU (%)")
        handles, names = left.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2)


def _group_scores(results: AblationResults, group: str) -> list[AblationScore]:
    """Return a group's scores, including the baseline under the group's name for it."""
    members = [line for line in results.lines if line.group == group]
    trained = [line for line in members if line.how == "trained"]
    others = [line for line in members if line.how != "trained"]
    base = next(line for line in results.lines if line.group == BASELINE.group)
    own = AblationScore(group, _BASELINE_NAMES[group], "trained", base.things, base.stuff, base.all)
    return [*others, own, *trained]


def _draw_panel(axes: "Axes", group: str, scores: list[AblationScore]) -> None:
    fills = {"trained": "full", "switched": "left", "no training": "none"}
    base = next(line for line in scores if line.name == _BASELINE_NAMES[group]
                and line.how == "trained")  # fmt: skip
    for shift, part in ((-0.16, "things"), (0.16, "stuff")):
        colour = PART_COLOURS[part]
        labelled = False
        for row, line in enumerate(scores):
            score = line.things if part == "things" else line.stuff
            if score is None:
                continue
            iou = score.cumulative_iou
            axes.errorbar(
                iou.value, row + shift, xerr=[[iou.value - iou.low], [iou.high - iou.value]],
                fmt="o" if part == "things" else "s", markersize=4.5, color=colour, elinewidth=1.2,
                fillstyle=fills[line.how], markerfacecoloralt="white",
                label=None if labelled else f"{part} (n = {score.phrases:,})",
            )  # fmt: skip
            labelled = True
        anchor = base.things if part == "things" else base.stuff
        if anchor is not None:
            axes.axvline(anchor.cumulative_iou.value, color=colour, linewidth=0.8, linestyle=":")
    labels = [line.name + ("" if line.how == "trained" else f" · {line.how}") for line in scores]
    axes.set_yticks(range(len(scores)), labels, fontsize=7)
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_title(group[0].upper() + group[1:], fontsize=8)
    draw_grid(axes, "x")
    axes.spines["left"].set_visible(False)


def draw_figures(results: AblationResults, _context: ReportContext, out: Path) -> dict[str, str]:
    """Draw the claim's figure; return its caption by file name."""
    draw_scores(results, out / "ablations.png")
    return {
        "ablations.png": "Ablations: cIoU with 95 % intervals over pictures. Filled: small heads"
        f" trained alike ({results.steps} steps); half: the model's own head with prompts switched"
        " off; hollow: no training. Dotted: the baseline, a small mask decoder as the paper has it."
    }
