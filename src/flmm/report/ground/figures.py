"""Draws ``ground.Ground``: scores with intervals, and examples."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flmm.answers.palette import COLOURS
from flmm.pictures.geometry import maps_on_picture
from flmm.report.context import Bench
from flmm.report.data import KINDS
from flmm.report.ground.measurement import METHODS, TRAINED, Ground, Masks, masks_of
from flmm.report.style import PART_COLOURS, figure, heat, light_grid
from flmm.report.thresholds import peaked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from flmm.report.extraction import SeenPicture

_EXAMPLES = 5
_SHORT = {"caption": "Captions", "expression": "Expressions", "instruction": "Questions"}


def draw_scores(results: Ground, file: Path) -> None:
    """A panel a kind of text, a line a method."""
    kinds = [kind for kind in KINDS if any(row.kind == kind for row in results.rows)]
    with figure(file, 2.7) as drawn:
        grid = drawn.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
        for axes, kind in zip(grid, kinds, strict=True):
            _scores(axes, results, kind)
        grid[0].set_yticks(range(len(METHODS)), METHODS)
        grid[0].invert_yaxis()
        handles, names = grid[0].get_legend_handles_labels()
        drawn.legend(handles, names, loc="outside lower center", ncols=len(names))


def _scores(axes: "Axes", results: Ground, kind: str) -> None:
    rows = [row for row in results.rows if row.kind == kind]
    parts = [part for part in ("things", "stuff") if any(row.part == part for row in rows)]
    parts = parts or ["all"]
    for place, part in enumerate(parts):
        shift = 0.3 * (place - (len(parts) - 1) / 2)
        members = [row for row in rows if row.part == part]
        for index, row in enumerate(members):
            score = row.score.cumulative_iou
            axes.errorbar(
                score.value, METHODS.index(row.method) + shift,
                xerr=[[score.value - score.low], [score.high - score.value]],
                fmt="os"[place], markersize=5.5, color=PART_COLOURS[part], elinewidth=1.4,
                markerfacecolor=PART_COLOURS[part] if row.method in TRAINED else "white",
                label=f"{part} (cIoU)" if not index else None,
            )  # fmt: skip
            axes.annotate(
                f"{score.value:.0f}", (score.high, METHODS.index(row.method) + shift),
                xytext=(4, 0), textcoords="offset points", va="center", fontsize=7,
                color=PART_COLOURS[part],
            )  # fmt: skip
    counts = ", ".join(
        f"{next(row.score.phrases for row in rows if row.part == part):,} {part}" for part in parts
    )
    axes.set_title(f"{_SHORT[kind]} (n = {counts})", fontsize=8)
    axes.set_xlim(0, 105)
    axes.set_xlabel("cIoU (%)")
    light_grid(axes, "x")
    axes.axhline(3.5, color="#7a7a80", linewidth=0.7, linestyle=(0, (3, 2)))
    axes.spines["left"].set_visible(False)


def draw_examples(masks: Masks, bench: Bench, file: Path) -> None:
    """A row a phrase: the picture, its mean map, every method's mask."""
    samples = bench.data.measured
    rows: list[tuple[SeenPicture, int]] = []
    for seen in bench.eye.see(samples, range(min(len(samples), 2 * _EXAMPLES))):
        place = len(rows)
        if place == _EXAMPLES:
            break
        rows.append((seen, _told(seen, place)))
    titles = ("picture", "attention (mean)", *METHODS[1:])
    with figure(file, 0.98 * len(rows) + 0.25, photographs=True) as drawn:
        grid = drawn.subplots(len(rows), len(titles), squeeze=False)
        for line, (seen, phrase) in zip(grid, rows, strict=True):
            _example(line, seen, phrase, masks(seen)[phrase].numpy())
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title, fontsize=7.5, loc="center", pad=4)


def _told(seen: "SeenPicture", place: int) -> int:
    """A phrase of the picture: of captions and of expressions in turn, of things mostly."""
    kinds = list(dict.fromkeys(seen.kinds))
    kind = kinds[place % len(kinds)]
    wanted = place % 5 != 4
    members = [number for number, one in enumerate(seen.kinds) if one == kind]
    fitting = [number for number in members if seen.is_thing[number] in (wanted, None)]
    return (fitting or members)[place % len(fitting or members)]


def _example(
    line: NDArray[np.object_], seen: "SeenPicture", phrase: int, found: NDArray[np.bool_]
) -> None:
    picture = np.asarray(seen.asked.picture.convert("RGB"))
    truth = seen.masks[phrase].numpy()
    geometry = seen.features.geometry
    mean = peaked(
        maps_on_picture(
            peaked(seen.attention[phrase]).mean(0, keepdim=True), geometry, geometry.picture
        )
    )[0].numpy()
    # Small enough for a figure of many pictures.
    step = max(max(picture.shape) // 192, 1)
    line[0].imshow(picture[::step, ::step])
    line[0].set_ylabel(_wrapped(seen.texts[phrase]), fontsize=7, rotation=0, ha="right",
                       va="center", labelpad=6)  # fmt: skip
    line[1].imshow(mean[::step, ::step], cmap=heat(), vmin=0, vmax=1)
    for axes, mask in zip(line[2:], found[1:], strict=True):
        axes.imshow(_compared(picture, mask, truth)[::step, ::step])
    for axes in line:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)


def _wrapped(text: str) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > 13 and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _compared(
    picture: NDArray[np.uint8], mask: NDArray[np.bool_], truth: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """The picture in grey; right, too much and missing in colours."""
    grey = np.repeat(picture.mean(2, keepdims=True), 3, 2) * 0.55 + 100
    for where, colour in ((mask & truth, COLOURS[2]), (mask & ~truth, COLOURS[7]),
                          (truth & ~mask, COLOURS[1])):  # fmt: skip
        grey[where] = 0.35 * grey[where] + 0.65 * np.array(colour)
    return grey.clip(0, 255).astype(np.uint8)


def figures(results: Ground, bench: Bench, out: Path) -> dict[str, str]:
    """Scores, and some phrases as every method sees them."""
    draw_scores(results, out / "ground.png")
    shown = {
        "ground.png": "cIoU of masks from the frozen LMM's attention; bars: 95 % intervals over"
        " pictures. Filled: trained on that attention; hollow: no training."
    }
    masks, _ = masks_of(bench)
    draw_examples(masks, bench, out / "ground-examples.png")
    shown["ground-examples.png"] = (
        "The first measured pictures' phrases: what each method makes of the same attention."
        " Green: right; orange: too much; blue: missing."
    )
    return shown
