"""Pictures with the grid of an LMM's image tokens over them, to see where each token lies.

Letters: ``h w`` image-token grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from flmm.answers.legend import INK, LegendStyle
from flmm.answers.palette import phrase_colour
from flmm.types import ImageGeometry

PANEL_SIDE = 560
"""The longer side of a panel, in pixels."""
_STYLE = LegendStyle.for_width(720)
_MARGIN = 2 * _STYLE.font_size
_LINE_HEIGHT = _STYLE.line_height
_ACCENT = phrase_colour(0)
_PADDING_COLOUR = (226, 226, 222)
_HATCH_COLOUR = (176, 176, 170)
_HATCH_STEP = 9
"""Pixels between the lines that padding is hatched with."""
_CROPPED_OPACITY = 0.3
"""Of the parts of a picture that the LMM does not see."""


@dataclass(frozen=True)
class GridPanel:
    """One grid of image tokens of a picture."""

    title: str
    geometry: ImageGeometry
    corner_numbers: tuple[int, int, int, int]
    """The image tokens at the upper left, upper right, lower left and lower right."""


def draw_grids(rows: Sequence[tuple[Image.Image, Sequence[GridPanel]]]) -> Image.Image:
    """Draw a sheet with a row for each picture and a panel for each of its grids.

    Padding is hatched, what is cropped away is pale, and the four corner cells are marked with the
    numbers of their image tokens.

    Args:
        rows: pictures of any mode, and their grids.

    Returns:
        A new RGB image.
    """
    drawn = [[_draw_panel(picture, panel) for panel in panels] for picture, panels in rows]
    width = max(sum(panel.width for panel in row) for row in drawn)
    height = sum(max(panel.height for panel in row) for row in drawn)
    sheet = Image.new("RGB", (width, height), _STYLE.background)
    top = 0
    for row in drawn:
        left = 0
        for panel in row:
            sheet.paste(panel, (left, top))
            left += panel.width
        top += max(panel.height for panel in row)
    return sheet


def _draw_panel(picture: Image.Image, panel: GridPanel) -> Image.Image:
    geometry = panel.geometry
    # In pixels of the canvas: the frame that holds both canvas and picture.
    begin = [min(0, offset) for offset in geometry.offset]
    end = [
        max(canvas, offset + resized)
        for canvas, offset, resized in zip(
            geometry.canvas, geometry.offset, geometry.resized, strict=True
        )
    ]
    scale = PANEL_SIDE / max(end[0] - begin[0], end[1] - begin[1])

    def place(y: float, x: float) -> tuple[int, int]:
        return round((x - begin[1]) * scale), round((y - begin[0]) * scale)

    frame = Image.new("RGB", _at_least_one(place(*end)), _STYLE.background)
    left_top, right_bottom = place(0, 0), place(*geometry.canvas)
    _hatch(frame, (*left_top, *right_bottom))
    shown = picture.convert("RGB").resize(
        _at_least_one((round(geometry.resized[1] * scale), round(geometry.resized[0] * scale))),
        Image.Resampling.LANCZOS,
    )
    frame.paste(shown, place(*geometry.offset))
    frame = _fade_outside(frame, (*left_top, *right_bottom))
    _draw_grid(frame, (*left_top, *right_bottom), geometry.grid)
    return _frame_panel(frame, (*left_top, *right_bottom), panel)


def _at_least_one(size: tuple[int, int]) -> tuple[int, int]:
    return max(size[0], 1), max(size[1], 1)


def _hatch(image: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Fill a box with slanted lines."""
    size = _at_least_one((box[2] - box[0], box[3] - box[1]))
    tile = Image.new("RGB", size, _PADDING_COLOUR)
    draw = ImageDraw.Draw(tile)
    for start in range(-size[1], size[0], _HATCH_STEP):
        draw.line((start, size[1], start + size[1], 0), fill=_HATCH_COLOUR)
    image.paste(tile, box[:2])


def _fade_outside(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    background = Image.new("RGB", image.size, _STYLE.background)
    faded = Image.blend(background, image, _CROPPED_OPACITY)
    faded.paste(image.crop(box), box[:2])
    return faded


def _draw_grid(image: Image.Image, box: tuple[int, int, int, int], grid: tuple[int, int]) -> None:
    """Draw the cells' edges, legible on any picture, and mark the corner cells."""
    left, top, right, bottom = box
    xs = np.linspace(left, right, grid[1] + 1).round().astype(int).tolist()
    ys = np.linspace(top, bottom, grid[0] + 1).round().astype(int).tolist()
    lines = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(lines)
    for row in {0, grid[0] - 1}:
        for column in {0, grid[1] - 1}:
            cell = (xs[column], ys[row], xs[column + 1], ys[row + 1])
            draw.rectangle(cell, fill=(*_ACCENT, 150))
    for x in xs:
        draw.line((x + 1, top, x + 1, bottom), fill=(0, 0, 0, 70))
        draw.line((x, top, x, bottom), fill=(255, 255, 255, 190))
    for y in ys:
        draw.line((left, y + 1, right, y + 1), fill=(0, 0, 0, 70))
        draw.line((left, y, right, y), fill=(255, 255, 255, 190))
    draw.rectangle((left, top, right - 1, bottom - 1), outline=(*_ACCENT, 255), width=2)
    image.paste(lines, (0, 0), lines)


def _frame_panel(
    frame: Image.Image, box: tuple[int, int, int, int], panel: GridPanel
) -> Image.Image:
    """Put the title above the frame, and the corners' numbers around the canvas."""
    font, small = _STYLE.font(), _STYLE.font(round(_STYLE.font_size * 0.78))
    first, second, third, fourth = map(str, panel.corner_numbers)
    # Room for the title, and for numbers outside at both sides of a narrow canvas.
    widest = max(small.getlength(first) + small.getlength(second),
                 small.getlength(third) + small.getlength(fourth)) + _MARGIN  # fmt: skip
    inside = max(frame.width, round(widest), round(font.getlength(panel.title)))
    above = 2 * _LINE_HEIGHT
    image = Image.new(
        "RGB", (inside + 2 * _MARGIN, above + frame.height + 2 * _LINE_HEIGHT), _STYLE.background
    )
    left = _MARGIN + (inside - frame.width) // 2
    image.paste(frame, (left, above))
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, _LINE_HEIGHT * 3 // 4), panel.title, fill=INK, font=font, anchor="lm")
    is_narrow = box[2] - box[0] < widest
    sides = ((left + box[0], "r"), (left + box[2], "l")) if is_narrow else (
        (left + box[0], "l"), (left + box[2], "r"))  # fmt: skip
    gap = _STYLE.font_size // 4
    for text, y, vertical, (x, horizontal) in (
        (first, above + box[1] - gap, "d", sides[0]),
        (second, above + box[1] - gap, "d", sides[1]),
        (third, above + box[3] + gap, "a", sides[0]),
        (fourth, above + box[3] + gap, "a", sides[1]),
    ):
        draw.text((x, y), text, fill=INK, font=small, anchor=horizontal + vertical)
    return image
