"""The figure of ``WhereResults``: heat maps of layers and heads, and the learned layer weights."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flmm.report.context import ReportContext
from flmm.report.style import DARK_GREY, PALETTE, draw_grid, heatmap_colours, open_figure
from flmm.report.where.measurement import Panel, WhereResults

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

_MAX_LABELLED_CELLS = 80
"""A heat map with at most so many cells shows their values."""
_KIND_TITLES = {"caption": "Captions", "expression": "Referring", "instruction": "Questions"}


def draw_heatmaps(results: WhereResults, file: Path) -> None:
    """Draw a heat map for each panel, and the layer weights."""
    panels = [panel for panel in results.panels if panel.part != "all"] or list(results.panels)
    height = 2.3 if len(panels[0].heads) <= 8 else 3.2
    highest = max(
        score.cumulative_iou.value for panel in panels for row in panel.heads for score in row
    )
    highest = max(
        highest, *(layer.cumulative_iou.value for panel in panels for layer in panel.layers)
    )
    rows = -(-len(panels) // 2)
    with open_figure(file, height * rows + 0.2) as figure:
        grid = figure.subplots(rows, 3, squeeze=False, gridspec_kw={"width_ratios": [2, 2, 1]})
        heatmap = None
        for index, axes in enumerate(grid[:, :2].flat):
            if index >= len(panels):
                axes.set_visible(False)
                continue
            heatmap = _draw_heatmap(axes, panels[index], highest)
        for row in range(1, rows):
            grid[row, 2].set_visible(False)
        _draw_layer_weights(grid[0, 2], results)
        assert heatmap is not None
        bar = figure.colorbar(
            heatmap, ax=grid[-1, 2] if rows > 1 else grid[0, 1], label="cIoU (%)",
            fraction=0.9 if rows > 1 else 0.05, aspect=14, location="left" if rows > 1 else "right",
        )  # fmt: skip
        bar.outline.set_visible(False)


def _draw_heatmap(axes: "Axes", panel: Panel, max_score: float) -> "AxesImage":
    single = np.array([[score.cumulative_iou.value for score in row] for row in panel.heads])
    means = np.array([[score.cumulative_iou.value] for score in panel.layers])
    layers, heads = single.shape
    # An empty column between the heads and their mean.
    gap = np.full((layers, 1), np.nan)
    cells = np.concatenate([single, gap, means], 1)
    heatmap = axes.imshow(
        cells, cmap=heatmap_colours(), vmin=0, vmax=max_score, aspect="auto", origin="lower"
    )
    if cells.size <= _MAX_LABELLED_CELLS:
        for (layer, column), value in np.ndenumerate(cells):
            if not np.isnan(value):
                colour = "white" if value < 0.6 * max_score else DARK_GREY
                axes.text(column, layer, f"{value:.0f}", ha="center", va="center",
                          color=colour, fontsize=7.5)  # fmt: skip
    layer, head = panel.best
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, edgecolor=PALETTE[5], linewidth=2)
    )
    axes.set_title(
        f"{_KIND_TITLES[panel.kind]}: {panel.part}\n(n = {panel.mean.phrases:,};"
        f" whole picture {panel.everything.cumulative_iou.value:.0f})",
        fontsize=7.5,
    )
    step = max(heads // 8, 1)
    ticks = [*range(0, heads, step), heads + 1]
    axes.set_xticks(ticks, [*map(str, range(0, heads, step)), "mean"])
    axes.set_yticks(range(0, layers, max(layers // 8, 1)))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return heatmap


def _draw_layer_weights(axes: "Axes", results: WhereResults) -> None:
    weights = results.layer_weights
    axes.barh(range(len(weights)), weights, color=PALETTE[2], height=0.72)
    axes.axvline(1 / len(weights), color=DARK_GREY, linewidth=0.8, linestyle=(0, (3, 2)))
    axes.set_title("Layer weights")
    axes.set_xlabel("softmax weight\n(dashed: equal)")
    axes.set_yticks(range(0, len(weights), max(len(weights) // 8, 1)))
    axes.set_ylim(-0.5, len(weights) - 0.5)
    axes.set_xlim(0, None)
    draw_grid(axes, "x")


def draw_figures(results: WhereResults, _context: ReportContext, out: Path) -> dict[str, str]:
    """Draw the claim's figure; return its caption by file name."""
    draw_heatmaps(results, out / "where.png")
    return {
        "where.png": "cIoU of each head's map alone (rows: layers, the first at the bottom;"
        " the last column: the mean of the layer's heads), and the layer weights that the head"
        " learned."
        " Framed: the head that the calibration pictures choose. For stuff, compare with the whole"
        " picture's cIoU in each title."
    }
