"""The figure of a visual chain of thought: the picture, its crop, and both answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from flmm.answers.legend import GREY, LegendStyle, draw_legend
from flmm.answers.overlay import MaskedPhrase, compute_shares, draw_masks
from flmm.answers.palette import phrase_colour

if TYPE_CHECKING:
    from flmm.types import Box

PANEL_SIDE = 640
"""The longer side of the picture and of its crop, in pixels."""


@dataclass(frozen=True)
class Paragraph:
    """A question or an answer."""

    title: str
    text: str
    phrases: Sequence[MaskedPhrase] = ()
    """Phrases of the text."""


def draw_thought(
    picture: Image.Image,
    crop: Image.Image,
    box: "Box",
    phrases: Sequence[MaskedPhrase],
    paragraphs: Sequence[Paragraph],
) -> Image.Image:
    """Draw the picture with its masks and the box, the crop beside it, and the texts below.

    Args:
        picture: RGB.
        crop: RGB.
        box: of the crop in the picture.
        phrases: those that were located.
        paragraphs: in the order in which they are drawn.

    Returns:
        A new RGB image.
    """
    scale = PANEL_SIDE / max(picture.size)
    style = LegendStyle.for_width(2 * PANEL_SIDE)
    shown = draw_masks(_resize(picture, scale), phrases, style)
    enlarged = _resize(crop, min(PANEL_SIDE / crop.width, shown.height / crop.height))
    gap = 2 * style.margin
    width = max(shown.width + gap + enlarged.width, PANEL_SIDE)
    texts = [
        _draw_paragraph(picture, paragraph, LegendStyle(width, style.font_size))
        for paragraph in paragraphs
    ]
    height = max(shown.height, enlarged.height)
    sheet = Image.new("RGB", (width, height + sum(text.height for text in texts)), style.background)
    sheet.paste(shown, (0, 0))
    sheet.paste(enlarged, (shown.width + gap, 0))
    x0, y0, x1, y1 = (round(edge * scale) for edge in box)
    draw = ImageDraw.Draw(sheet)
    for line, colour in ((5, (255, 255, 255)), (2, phrase_colour(1))):
        draw.rectangle((x0, y0, max(x1, x0 + 1) - 1, max(y1, y0 + 1) - 1), None, colour, line)
        left = shown.width + gap
        draw.line((x1, y0, left, 0), colour, line)
        draw.line((x1, y1, left, enlarged.height), colour, line)
        corner = (left + enlarged.width - 1, enlarged.height - 1)
        draw.rectangle((left, 0, *corner), None, colour, line)
    top = height
    for text in texts:
        sheet.paste(text, (0, top))
        top += text.height
    return sheet


def _resize(image: Image.Image, scale: float) -> Image.Image:
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return image.resize(size, Image.Resampling.LANCZOS)


def _draw_paragraph(picture: Image.Image, paragraph: Paragraph, style: LegendStyle) -> Image.Image:
    shares = compute_shares(picture, paragraph.phrases)
    text = draw_legend(paragraph.text, paragraph.phrases, shares, style)
    title_height = style.line_height // 4
    block = Image.new(
        "RGB", (style.width, text.height + title_height - style.margin // 2), style.background
    )
    block.paste(text, (0, title_height))
    font = style.font(round(style.font_size * 0.78))
    corner = (style.margin, style.margin // 2)
    ImageDraw.Draw(block).text(corner, paragraph.title, fill=GREY, font=font, anchor="la")
    return block
