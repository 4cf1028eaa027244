"""Immutable value types that several folders share."""

from dataclasses import dataclass

Size = tuple[int, int]
"""(height, width)."""

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in picture pixels; x1 and y1 are exclusive."""


@dataclass(frozen=True)
class ImageGeometry:
    """Where the picture lies on the canvas that the vision encoder sees.

    The image processor resizes the picture to ``resized`` and places it on a canvas of ``canvas``
    pixels with its top left corner at ``offset`` (negative where it crops, positive where it pads);
    the canvas is divided evenly into ``grid`` image tokens.
    """

    picture: Size
    resized: Size
    offset: tuple[int, int]
    """(top, left) in canvas pixels."""
    canvas: Size
    grid: Size

    def __post_init__(self) -> None:
        for name in ("picture", "resized", "canvas", "grid"):
            height, width = getattr(self, name)
            if height < 1 or width < 1:
                raise ValueError(f"ImageGeometry.{name} must be positive, got {(height, width)}")


@dataclass(frozen=True)
class PhraseSpan:
    """A phrase of a text: ``text[start:end]`` in code points, and the tokens that overlap it."""

    text: str
    start: int
    end: int
    tokens: tuple[int, ...]
    """Indices into the answer's tokens (not into the whole sequence)."""
