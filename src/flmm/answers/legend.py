"""The answer's text with its phrases marked, and below it a label for each phrase."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from PIL import Image, ImageDraw, ImageFont

from flmm.answers.palette import Colour, contrasting_text_colour, phrase_colour, tint

INK: Colour = (32, 33, 36)
GREY: Colour = (112, 116, 122)


class LegendPhrase(Protocol):
    """A phrase: ``text[start:end]`` in code points."""

    @property
    def text(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


@dataclass(frozen=True)
class LegendStyle:
    """Sizes in pixels, derived from the legend's width."""

    width: int
    font_size: int
    """Of the text."""

    @classmethod
    def for_width(cls, width: int) -> "LegendStyle":
        return cls(width, round(min(max(width / 34, 20), 34)))

    @property
    def background(self) -> Colour:
        return (252, 252, 250)

    @property
    def margin(self) -> int:
        return self.font_size

    @property
    def line_height(self) -> int:
        return round(self.font_size * 1.75)

    @property
    def badge_radius(self) -> float:
        """Radius of a phrase's number."""
        return self.font_size * 0.68

    def font(self, size: int | None = None) -> ImageFont.FreeTypeFont:
        return _font(size or self.font_size)


@dataclass(frozen=True)
class _TextRun:
    """Characters of one word that belong to one phrase or to none."""

    text: str
    phrase_index: int | None


@dataclass(frozen=True)
class _Word:
    runs: tuple[_TextRun, ...]
    has_space_before: bool = True

    @property
    def text(self) -> str:
        return "".join(run.text for run in self.runs)


def draw_legend(
    text: str, phrases: Sequence[LegendPhrase], area_fractions: Sequence[float], style: LegendStyle
) -> Image.Image:
    """Draw a legend.

    Args:
        text: the answer.
        phrases: those marked in it.
        area_fractions: of the picture that each phrase's mask covers, in 0..1.
        style: the sizes.

    Returns:
        RGB, ``style.width`` wide and as tall as it needs to be.
    """
    lines = _wrap_lines(text, phrases, style)
    rows = _layout_chips(phrases, area_fractions, style)
    gap = style.margin // 2 if lines and rows else 0
    height = 2 * style.margin + (len(lines) + len(rows)) * style.line_height + gap
    legend = Image.new("RGB", (style.width, height), style.background)
    top = style.margin
    for line in lines:
        _draw_line(ImageDraw.Draw(legend), line, top, style)
        top += style.line_height
    top += gap
    for row in rows:
        for index, label, note, left in row:
            _draw_chip(legend, index, label, note, (left, top), style)
        top += style.line_height
    return legend


def _wrap_lines(
    text: str, phrases: Sequence[LegendPhrase], style: LegendStyle
) -> list[list[_Word]]:
    """Break the text into lines no wider than the legend."""
    widest = style.width - 2 * style.margin
    font, blank = style.font(), style.font().getlength(" ")
    lines: list[list[_Word]] = []
    used = 0.0
    for word in _split_words(text, phrases):
        for piece in _split_to_width(word, widest, font):
            width = font.getlength(piece.text)
            before = blank if piece.has_space_before else 0.0
            if not lines or used + before + width > widest:
                lines.append([])
                used, before = 0.0, 0.0
            lines[-1].append(piece)
            used += before + width
    return lines


def _split_words(text: str, phrases: Sequence[LegendPhrase]) -> list[_Word]:
    phrase_at: list[int | None] = [None] * len(text)
    for index, phrase in enumerate(phrases):
        for position in range(phrase.start, min(phrase.end, len(text))):
            if phrase_at[position] is None:
                phrase_at[position] = index
    words: list[_Word] = []
    runs: list[_TextRun] = []
    for letter, phrase_index in zip(
        f"{replace_surrogates(text)} ", [*phrase_at, None], strict=True
    ):
        if letter.isspace():
            if runs:
                words.append(_Word(tuple(runs)))
            runs = []
        elif runs and runs[-1].phrase_index == phrase_index:
            runs[-1] = _TextRun(runs[-1].text + letter, phrase_index)
        else:
            runs.append(_TextRun(letter, phrase_index))
    return words


def _split_to_width(word: _Word, max_width: float, font: ImageFont.FreeTypeFont) -> list[_Word]:
    """Return the word, or pieces of it that fit where it is wider than a line."""
    if font.getlength(word.text) <= max_width:
        return [word]
    pieces: list[list[_TextRun]] = [[]]
    used = 0.0
    for run in word.runs:
        for letter in run.text:
            width = font.getlength(letter)
            if pieces[-1] and used + width > max_width:
                pieces.append([])
                used = 0.0
            used += width
            pieces[-1].append(_TextRun(letter, run.phrase_index))
    return [_Word(tuple(runs), has_space_before=not index) for index, runs in enumerate(pieces)]


def _draw_line(
    draw: ImageDraw.ImageDraw, line: Sequence[_Word], top: int, style: LegendStyle
) -> None:
    font = style.font()
    left = float(style.margin)
    placed: list[tuple[float, _TextRun]] = []
    spans: list[tuple[float, float, int]] = []
    for position, word in enumerate(line):
        if position and word.has_space_before:
            left += font.getlength(" ")
        for run in word.runs:
            placed.append((left, run))
            width = font.getlength(run.text)
            if run.phrase_index is not None:
                begin = left
                if spans and spans[-1][2] == run.phrase_index:
                    begin = spans.pop()[0]
                spans.append((begin, left + width, run.phrase_index))
            left += width
    pad = style.font_size * 0.07
    middle = top + style.line_height / 2
    half = style.font_size * 0.68
    for begin, end, phrase in spans:
        box = (begin - pad, middle - half, end + pad, middle + half)
        draw.rounded_rectangle(
            box, radius=style.font_size * 0.22, fill=tint(phrase_colour(phrase), 0.3)
        )
        under = (begin - pad, middle + half - style.font_size * 0.14, end + pad, middle + half)
        draw.rounded_rectangle(under, radius=style.font_size * 0.07, fill=phrase_colour(phrase))
    for left, run in placed:
        draw.text((left, middle), run.text, fill=INK, font=font, anchor="lm")


_Chip = tuple[int, str, str, float]
"""(index, label, note, left)."""


def _layout_chips(
    phrases: Sequence[LegendPhrase], area_fractions: Sequence[float], style: LegendStyle
) -> list[list[_Chip]]:
    font, small = style.font(), style.font(_note_size(style))
    widest = style.width - 2 * style.margin
    rows: list[list[_Chip]] = []
    left = 0.0
    for index, (phrase, share) in enumerate(zip(phrases, area_fractions, strict=True)):
        note = _format_percent(share)
        head, tail = 2 * style.badge_radius + style.font_size * 0.9, small.getlength(note)
        label = truncate(
            " ".join(replace_surrogates(phrase.text).split()), widest - head - tail, font
        )
        width = head + font.getlength(label) + tail
        if not rows or left + width > widest:
            rows.append([])
            left = 0.0
        rows[-1].append((index, label, note, left + style.margin))
        left += width + style.font_size * 1.2
    return rows


def _draw_chip(
    legend: Image.Image,
    index: int,
    label: str,
    note: str,
    corner: tuple[float, float],
    style: LegendStyle,
) -> None:
    draw = ImageDraw.Draw(legend)
    left, middle = corner[0], corner[1] + style.line_height / 2
    draw_badge(legend, (left + style.badge_radius, middle), index, style)
    left += 2 * style.badge_radius + style.font_size * 0.5
    draw.text((left, middle), label, fill=INK, font=style.font(), anchor="lm")
    left += style.font().getlength(label) + style.font_size * 0.4
    small = style.font(_note_size(style))
    draw.text((left, middle), note, fill=GREY, font=small, anchor="lm")


def draw_badge(
    image: Image.Image, centre: tuple[float, float], index: int, style: LegendStyle
) -> None:
    """Draw a round badge in the phrase's colour: its number, counted from 1, and a white rim."""
    colour = phrase_colour(index)
    oversampling = 4
    side = int(2 * style.badge_radius) * oversampling
    rim = oversampling * 3 // 2
    badge = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    draw = ImageDraw.Draw(badge)
    draw.ellipse((0, 0, side - 1, side - 1), fill=(255, 255, 255, 255))
    draw.ellipse((rim, rim, side - 1 - rim, side - 1 - rim), fill=colour)
    number = str(index + 1)
    font = style.font(round(side * (0.6 if len(number) < 3 else 0.42)))
    draw.text(
        (side / 2, side / 2), number, fill=contrasting_text_colour(colour), font=font, anchor="mm"
    )
    size = (side // oversampling, side // oversampling)
    badge = badge.resize(size, Image.Resampling.LANCZOS)
    corner = (round(centre[0] - badge.width / 2), round(centre[1] - badge.height / 2))
    image.paste(badge, corner, badge)


def _note_size(style: LegendStyle) -> int:
    return round(style.font_size * 0.78)


def _format_percent(share: float) -> str:
    if not share:
        return "not found"
    return f"{share:.0%}" if share >= 0.01 else "< 1%"


def truncate(label: str, max_width: float, font: ImageFont.FreeTypeFont) -> str:
    """Return the label, cut to the width with an ellipsis."""
    if font.getlength(label) <= max_width:
        return label
    while label and font.getlength(f"{label}…") > max_width:
        label = label[: len(label) * 9 // 10]
    return f"{label}…"


def replace_surrogates(text: str) -> str:
    """Replace each surrogate, which the font engine refuses, by one replacement character."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if "\ud800" <= letter <= "\udfff" else letter for letter in text
    )
