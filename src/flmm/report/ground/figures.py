"""The figures of ``GroundResults``: scores with intervals, and examples."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flmm.answers.palette import PHRASE_COLOURS
from flmm.pictures.geometry import resize_maps_to_picture
from flmm.report.context import ReportContext
from flmm.report.data import TEXT_KINDS
from flmm.report.ground.measurement import (
    TRAINED_METHODS,
    GroundResults,
    MaskMethods,
    build_mask_methods,
)
from flmm.report.style import PART_COLOURS, draw_grid, heatmap_colours, open_figure
from flmm.report.thresholds import normalise_by_max

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from flmm.report.extraction import ExtractedPicture

_NUM_EXAMPLES = 5
_KIND_TITLES = {"caption": "Captions", "expression": "Expressions", "instruction": "Questions"}


def draw_scores(results: GroundResults, file: Path) -> None:
    """Draw one panel for each kind of text, with one row for each method."""
    kinds = [kind for kind in TEXT_KINDS if any(row.kind == kind for row in results.rows)]
    with open_figure(file, 2.7) as figure:
        grid = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
        for axes, kind in zip(grid, kinds, strict=True):
            _draw_panel(axes, results, kind)
        grid[0].set_yticks(range(len(results.methods)), results.methods)
        grid[0].invert_yaxis()
        handles, names = grid[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names))


def _draw_panel(axes: "Axes", results: GroundResults, kind: str) -> None:
    rows = [row for row in results.rows if row.kind == kind]
    parts = [part for part in ("things", "stuff") if any(row.part == part for row in rows)]
    parts = parts or ["all"]
    for part_index, part in enumerate(parts):
        shift = 0.3 * (part_index - (len(parts) - 1) / 2)
        members = [row for row in rows if row.part == part]
        for index, row in enumerate(members):
            score = row.score.cumulative_iou
            axes.errorbar(
                score.value, results.methods.index(row.method) + shift,
                xerr=[[score.value - score.low], [score.high - score.value]],
                fmt="os"[part_index], markersize=5.5, color=PART_COLOURS[part], elinewidth=1.4,
                markerfacecolor=PART_COLOURS[part] if row.method in TRAINED_METHODS else "white",
                label=f"{part} (cIoU)" if not index else None,
            )  # fmt: skip
            axes.annotate(
                f"{score.value:.0f}", (score.high, results.methods.index(row.method) + shift),
                xytext=(4, 0), textcoords="offset points", va="center", fontsize=7,
                color=PART_COLOURS[part],
            )  # fmt: skip
    counts = ", ".join(
        f"{next(row.score.phrases for row in rows if row.part == part):,} {part}" for part in parts
    )
    axes.set_title(f"{_KIND_TITLES[kind]} (n = {counts})", fontsize=8)
    axes.set_xlim(0, 105)
    axes.set_xlabel("cIoU (%)")
    draw_grid(axes, "x")
    trained = [index for index, name in enumerate(results.methods) if name in TRAINED_METHODS]
    if trained:
        axes.axhline(trained[0] - 0.5, color="#7a7a80", linewidth=0.7, linestyle=(0, (3, 2)))
    axes.spines["left"].set_visible(False)


def draw_examples(methods: MaskMethods, context: ReportContext, file: Path) -> None:
    """Draw one row for each phrase: the picture, the mean map, every method's mask."""
    samples = context.data.measured
    rows: list[tuple[ExtractedPicture, int]] = []
    for extracted in context.picture_extractor.extract(
        samples, range(min(len(samples), 2 * _NUM_EXAMPLES))
    ):
        row_index = len(rows)
        if row_index == _NUM_EXAMPLES:
            break
        rows.append((extracted, _choose_phrase(extracted, row_index)))
    titles = ("picture", "attention (mean)", *methods.names[1:])
    with open_figure(file, 0.98 * len(rows) + 0.25, photographs=True) as figure:
        grid = figure.subplots(len(rows), len(titles), squeeze=False)
        for axes_row, (extracted, phrase) in zip(grid, rows, strict=True):
            masks = methods.predict_masks(extracted)[phrase]
            _draw_example(axes_row, extracted, phrase, masks.numpy())
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title, fontsize=7.5, loc="center", pad=4)


def _choose_phrase(extracted: "ExtractedPicture", row_index: int) -> int:
    """Return a phrase's index: kinds of text alternate, and four of five rows prefer things."""
    kinds = list(dict.fromkeys(extracted.kinds))
    kind = kinds[row_index % len(kinds)]
    prefers_thing = row_index % 5 != 4
    members = [index for index, member in enumerate(extracted.kinds) if member == kind]
    preferred = [index for index in members if extracted.is_thing[index] in (prefers_thing, None)]
    return (preferred or members)[row_index % len(preferred or members)]


def _draw_example(
    axes_row: NDArray[np.object_],
    extracted: "ExtractedPicture",
    phrase: int,
    masks: NDArray[np.bool_],
) -> None:
    picture = np.asarray(extracted.picture_exchanges.picture.convert("RGB"))
    truth = extracted.masks[phrase].numpy()
    geometry = extracted.features.geometry
    mean = normalise_by_max(
        resize_maps_to_picture(
            normalise_by_max(extracted.attention[phrase]).mean(0, keepdim=True),
            geometry,
            geometry.picture,
        )
    )[0].numpy()
    # Pictures are small in the figure: show every n-th pixel.
    step = max(max(picture.shape) // 192, 1)
    axes_row[0].imshow(picture[::step, ::step])
    label = _wrap_text(extracted.phrase_texts[phrase])
    axes_row[0].set_ylabel(label, fontsize=7, rotation=0, ha="right", va="center", labelpad=6)
    axes_row[1].imshow(mean[::step, ::step], cmap=heatmap_colours(), vmin=0, vmax=1)
    for axes, mask in zip(axes_row[2:], masks[1:], strict=True):
        axes.imshow(_colour_errors(picture, mask, truth)[::step, ::step])
    for axes in axes_row:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)


def _wrap_text(text: str) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > 13 and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _colour_errors(
    picture: NDArray[np.uint8], mask: NDArray[np.bool_], truth: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return the picture in grey, with right, surplus and missing mask pixels in colours."""
    grey = np.repeat(picture.mean(2, keepdims=True), 3, 2) * 0.55 + 100
    for region, colour in ((mask & truth, PHRASE_COLOURS[2]), (mask & ~truth, PHRASE_COLOURS[7]),
                          (truth & ~mask, PHRASE_COLOURS[1])):  # fmt: skip
        grey[region] = 0.35 * grey[region] + 0.65 * np.array(colour)
    return grey.clip(0, 255).astype(np.uint8)


def draw_figures(results: GroundResults, context: ReportContext, out: Path) -> dict[str, str]:
    """Draw the claim's figures; return their captions by file name."""
    draw_scores(results, out / "ground.png")
    captions = {
        "ground.png": "cIoU of masks from the frozen LMM's attention; bars: 95 % intervals over"
        " pictures. Filled: trained on that attention; hollow: no training."
    }
    draw_examples(build_mask_methods(context), context, out / "ground-examples.png")
    captions["ground-examples.png"] = (
        "The first measured pictures' phrases: what each method makes of the same attention."
        " Green: right; orange: too much; blue: missing."
    )
    return captions
