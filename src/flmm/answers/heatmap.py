"""Attention maps as heat over the picture, one panel a map.

Letters: ``H W`` picture size, ``a b`` a panel's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flmm.answers.legend import GREY, INK, Style, draw_legend, printable, shortened
from flmm.answers.palette import HEAT

SHEET_WIDTH = 1440
"""At most, in pixels."""
PANEL_SIDE = 440
"""The longer side of a panel, at most."""

_HOTTEST = 0.995
"""This share of the pixels is drawn in scale; the few above it, often one sink, are cut."""


@dataclass(frozen=True, eq=False)
class Panel:
    """A map over the picture, with what it is of."""

    title: str
    note: str
    heat: NDArray[np.float32]
    """(a, b), not negative, of the size that ``panel_size`` says."""


def panel_size(picture: Image.Image, columns: int) -> tuple[int, int]:
    """(a, b): how large the panels of a picture are in so many columns."""
    style = Style.for_width(SHEET_WIDTH)
    widest = (SHEET_WIDTH - style.margin) // columns - style.margin
    scale = min(widest / picture.width, PANEL_SIDE / max(picture.size))
    return max(round(picture.height * scale), 1), max(round(picture.width * scale), 1)


def draw_heat(
    picture: Image.Image,
    heading: tuple[str, str],
    text: str,
    panels: Sequence[Panel],
    columns: int,
) -> Image.Image:
    """Draws a sheet: what was asked and said, and the panels row by row.

    Args:
        picture: (H, W), any mode.
        heading: one line above the text, and a note at its right end.
        text: any Unicode; characters that the font lacks show as boxes.
        panels: in the order in which they are drawn.
        columns: panels in a row.

    Returns:
        A new RGB image.
    """
    style = Style.for_width(SHEET_WIDTH)
    height, width = panel_size(picture, columns)
    cell = max(width, 6 * style.size)
    used = min(columns, max(len(panels), 1))
    sheet_width = max(used * (cell + style.margin) + style.margin, SHEET_WIDTH // 2)
    said = draw_legend(text, [], [], Style(sheet_width, style.size))
    row_height = height + round(1.7 * style.line)
    rows = -(-len(panels) // columns)
    top = style.margin + style.line // 2 + said.height
    sheet = Image.new("RGB", (sheet_width, top + rows * row_height), style.background)
    sheet.paste(said, (0, style.margin + style.line // 2))
    draw = ImageDraw.Draw(sheet)
    small = style.font(round(style.size * 0.78))
    asked, note = (_line(part) for part in heading)
    room = sheet_width - 3 * style.margin - small.getlength(note)
    upper_left, upper_right = (style.margin,) * 2, (sheet_width - style.margin, style.margin)
    draw.text(upper_left, shortened(asked, room, small), fill=GREY, font=small, anchor="la")
    draw.text(upper_right, note, fill=GREY, font=small, anchor="ra")
    faded = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        left, upper = style.margin + column * (cell + style.margin), top + row * row_height
        sheet.paste(_heated(faded, panel.heat), (left, upper))
        note_width = small.getlength(panel.note)
        title = shortened(_line(panel.title), cell - note_width - style.size / 2, style.font())
        middle = upper + height + style.line * 0.6
        draw.text((left, middle), title, fill=INK, font=style.font(), anchor="lm")
        draw.text((left + cell, middle), panel.note, fill=GREY, font=small, anchor="rm")
    return sheet


def _heated(picture: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """The picture in grey, and the heat's colours on it, the denser the hotter."""
    hottest = float(np.quantile(heat, _HOTTEST))
    share = np.clip(heat / hottest, 0, 1) if hottest > 0 else np.zeros_like(heat)
    anchors = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(share, anchors, part) for part in np.transpose(HEAT)], axis=-1)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None]
    density = (0.35 + 0.5 * share)[..., None]
    return Image.fromarray((grey * (1 - density) + colours * density + 0.5).astype(np.uint8))


def _line(text: str) -> str:
    return " ".join(printable(text).split())
