"""Colours that people with any colour vision can tell apart (Okabe and Ito, 2008; Tol, 2021)."""

Colour = tuple[int, int, int]
"""(red, green, blue), each in 0..255."""

PHRASE_COLOURS: tuple[Colour, ...] = (
    (213, 94, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (86, 180, 233),
    (136, 34, 85),
    (230, 159, 0),
)


HEATMAP_COLOURS: tuple[Colour, ...] = (
    (16, 12, 48),
    (72, 18, 104),
    (142, 36, 104),
    (205, 66, 70),
    (243, 124, 34),
    (252, 193, 62),
    (252, 250, 190),
)
"""From nothing to the most: brighter at each step, so that a print in grey says the same."""


def phrase_colour(index: int) -> Colour:
    """The colour of the ``index``-th phrase; they repeat, darker each time down to a third."""
    turn, place = divmod(index, len(PHRASE_COLOURS))
    red, green, blue = PHRASE_COLOURS[place]
    share = max(0.7**turn, 0.34)
    return round(red * share), round(green * share), round(blue * share)


def tint(colour: Colour, strength: float) -> Colour:
    """The colour on white: ``share`` 1 is the colour itself, 0 white."""
    red, green, blue = (round(255 - (255 - value) * strength) for value in colour)
    return red, green, blue


def contrasting_text_colour(background: Colour) -> Colour:
    """Black or white, whichever has more contrast with the background (WCAG 2.2)."""
    red, green, blue = (_linearise_channel(value / 255) for value in background)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # Where both have the same.
    return (20, 20, 22) if luminance > 0.195 else (255, 255, 255)


def _linearise_channel(value: float) -> float:
    """Of an sRGB channel, both in 0..1."""
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def to_hex(colour: Colour) -> str:
    """As HTML writes it: "#rrggbb"."""
    return "#" + "".join(f"{value:02x}" for value in colour)
