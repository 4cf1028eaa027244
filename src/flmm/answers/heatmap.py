"""Attention maps as heatmaps over the picture, one panel for each map.

Letters: ``H W`` picture size, ``a b`` a panel's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flmm.answers.legend import GREY, INK, LegendStyle, draw_legend, replace_surrogates, truncate
from flmm.answers.palette import HEATMAP_COLOURS

MAX_SHEET_WIDTH = 1440
"""In pixels."""
MAX_PANEL_SIDE = 440
"""Of the longer side of a panel, in pixels."""

_CLIP_QUANTILE = 0.995
"""Values above this quantile, often one attention sink's, get the hottest colour."""


@dataclass(frozen=True, eq=False)
class HeatmapPanel:
    """A map over the picture, with its title and a note."""

    title: str
    note: str
    heatmap: NDArray[np.float32]
    """(a, b), not negative; ``panel_size`` gives the size."""


def panel_size(picture: Image.Image, columns: int) -> tuple[int, int]:
    """Return the (a, b) size of a picture's panels in so many columns."""
    style = LegendStyle.for_width(MAX_SHEET_WIDTH)
    widest = (MAX_SHEET_WIDTH - style.margin) // columns - style.margin
    scale = min(widest / picture.width, MAX_PANEL_SIDE / max(picture.size))
    return max(round(picture.height * scale), 1), max(round(picture.width * scale), 1)


def draw_heatmaps(
    picture: Image.Image,
    heading: tuple[str, str],
    text: str,
    panels: Sequence[HeatmapPanel],
    columns: int,
) -> Image.Image:
    """Draw a sheet: the question, the text, and the panels row by row.

    Args:
        picture: (H, W), any mode.
        heading: the question, on one line above the text, and a note at its right end.
        text: any Unicode; characters that the font lacks show as boxes.
        panels: in the order in which they are drawn.
        columns: panels in a row.

    Returns:
        A new RGB image.
    """
    style = LegendStyle.for_width(MAX_SHEET_WIDTH)
    height, width = panel_size(picture, columns)
    cell = max(width, 6 * style.font_size)
    used_columns = min(columns, max(len(panels), 1))
    sheet_width = max(used_columns * (cell + style.margin) + style.margin, MAX_SHEET_WIDTH // 2)
    legend = draw_legend(text, [], [], LegendStyle(sheet_width, style.font_size))
    row_height = height + round(1.7 * style.line_height)
    rows = -(-len(panels) // columns)
    top = style.margin + style.line_height // 2 + legend.height
    sheet = Image.new("RGB", (sheet_width, top + rows * row_height), style.background)
    sheet.paste(legend, (0, style.margin + style.line_height // 2))
    draw = ImageDraw.Draw(sheet)
    small = style.font(round(style.font_size * 0.78))
    question, note = (_single_line(part) for part in heading)
    room = sheet_width - 3 * style.margin - small.getlength(note)
    upper_left, upper_right = (style.margin,) * 2, (sheet_width - style.margin, style.margin)
    draw.text(upper_left, truncate(question, room, small), fill=GREY, font=small, anchor="la")
    draw.text(upper_right, note, fill=GREY, font=small, anchor="ra")
    resized = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        left, upper = style.margin + column * (cell + style.margin), top + row * row_height
        sheet.paste(_blend_heatmap(resized, panel.heatmap), (left, upper))
        note_width = small.getlength(panel.note)
        title = truncate(
            _single_line(panel.title), cell - note_width - style.font_size / 2, style.font()
        )
        middle = upper + height + style.line_height * 0.6
        draw.text((left, middle), title, fill=INK, font=style.font(), anchor="lm")
        draw.text((left + cell, middle), panel.note, fill=GREY, font=small, anchor="rm")
    return sheet


def _blend_heatmap(picture: Image.Image, heatmap: NDArray[np.float32]) -> Image.Image:
    """Blend the heatmap's colours into the grey picture, more opaque where it is hotter."""
    hottest = float(np.quantile(heatmap, _CLIP_QUANTILE))
    share = np.clip(heatmap / hottest, 0, 1) if hottest > 0 else np.zeros_like(heatmap)
    anchors = np.linspace(0, 1, len(HEATMAP_COLOURS))
    colours = np.stack(
        [np.interp(share, anchors, part) for part in np.transpose(HEATMAP_COLOURS)], axis=-1
    )
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None]
    density = (0.35 + 0.5 * share)[..., None]
    return Image.fromarray((grey * (1 - density) + colours * density + 0.5).astype(np.uint8))


def _single_line(text: str) -> str:
    return " ".join(replace_surrogates(text).split())
