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
"""From 0 to the maximum, brighter at each step, so that they keep their order in grey."""


def phrase_colour(index: int) -> Colour:
    """Return the ``index``-th phrase's colour; colours repeat, darker each time down to a third."""
    repetition, position = divmod(index, len(PHRASE_COLOURS))
    red, green, blue = PHRASE_COLOURS[position]
    brightness = max(0.7**repetition, 0.34)
    return round(red * brightness), round(green * brightness), round(blue * brightness)


def tint(colour: Colour, strength: float) -> Colour:
    """Return the colour mixed with white: ``strength`` 1 is the colour itself, 0 is white."""
    red, green, blue = (round(255 - (255 - value) * strength) for value in colour)
    return red, green, blue


def contrasting_text_colour(background: Colour) -> Colour:
    """Return black or white, whichever has more contrast with the background (WCAG 2.2)."""
    red, green, blue = (_linearise_channel(value / 255) for value in background)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # The luminance at which both have the same contrast.
    return (20, 20, 22) if luminance > 0.195 else (255, 255, 255)


def _linearise_channel(value: float) -> float:
    """Return the linear value of an sRGB channel, both in 0..1."""
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def to_hex(colour: Colour) -> str:
    """Return the colour as in HTML: "#rrggbb"."""
    return "#" + "".join(f"{value:02x}" for value in colour)
