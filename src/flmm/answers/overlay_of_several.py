"""Several pictures with the masks of an answer's phrases, in one image with its legend."""

import math
from collections.abc import Sequence

from PIL import Image

from flmm.answers.legend import LegendStyle, draw_legend
from flmm.answers.overlay import LEGEND_WIDTH_RANGE, draw_masks, resize_for_viewing
from flmm.answers.phrase import Phrase

_GAP = 8
"""Pixels between two pictures."""


def draw_overlay_of_several(
    pictures: Sequence[Image.Image], text: str, phrases: Sequence[Phrase]
) -> Image.Image:
    """Draw each picture with the masks that are of it, in rows, above the answer's legend.

    Args:
        pictures: of any mode; in reading order.
        text: the answer.
        phrases: ``Phrase.picture`` is an index of ``pictures``.

    Returns:
        A new RGB image.
    """
    columns = math.ceil(math.sqrt(len(pictures)))
    shown = [resize_for_viewing(picture) for picture in pictures]
    width = max(picture.width for picture in shown)
    least, most = LEGEND_WIDTH_RANGE
    style = LegendStyle.for_width(min(max(width * columns, least), most))
    drawn = []
    for index, picture in enumerate(shown):
        own = [number for number, phrase in enumerate(phrases) if phrase.picture == index]
        drawn.append(draw_masks(picture, [phrases[number] for number in own], style, own))
    rows = [drawn[first : first + columns] for first in range(0, len(drawn), columns)]
    heights = [max(picture.height for picture in row) + _GAP for row in rows]
    shares = [
        phrase.area / (pictures[phrase.picture].width * pictures[phrase.picture].height)
        for phrase in phrases
    ]
    legend = draw_legend(text, phrases, shares, style)
    size = (max((width + _GAP) * columns, legend.width), sum(heights) + legend.height)
    sheet = Image.new("RGB", size, style.background)
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            sheet.paste(cell, (column * (width + _GAP), sum(heights[:row])))
    sheet.paste(legend, (0, sum(heights)))
    return sheet
