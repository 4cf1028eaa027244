"""The frozen values that the stages hand on.

Letters: ``M`` layers, ``N`` heads, ``h w`` image-token grid, ``T`` tokens of the answer, ``D`` LLM
width, ``H W`` picture size.
"""

from dataclasses import dataclass

from torch import Tensor

Size = tuple[int, int]
"""(height, width)."""

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in picture pixels; x1 and y1 are exclusive."""


@dataclass(frozen=True)
class ImageGeometry:
    """Where the picture lies on the canvas that the vision encoder sees.

    The image processor resizes the picture to ``resized`` and lays it on a canvas of ``canvas``
    pixels with its top left corner at ``offset`` (negative where the processor crops, positive
    where it pads); the canvas is cut evenly into ``grid`` image tokens.
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


@dataclass(frozen=True)
class WordImageAttention:
    """How the tokens of an answer attended to one picture (paper section 3.1)."""

    attention: Tensor
    """(M, N, T, h, w): each token's attention after the softmax over all earlier tokens, cut to
    the image tokens; every value in 0..1. A tiled LMM has 2·M in the place of M: the coarse view's
    maps, brought to the fine grid, and then the fine ones."""
    geometry: ImageGeometry

    def __post_init__(self) -> None:
        if self.attention.ndim != 5 or self.attention.shape[3:] != self.geometry.grid:
            raise ValueError(
                f"attention must be (M, N, T, {self.geometry.grid[0]}, {self.geometry.grid[1]}),"
                f" got {tuple(self.attention.shape)}"
            )


@dataclass(frozen=True)
class Trace:
    """What the frozen LMM did while it said (or was made to say) one answer."""

    token_ids: Tensor
    """(T,) int64: the answer's tokens."""
    pictures: tuple[WordImageAttention, ...]
    """One for each picture of the conversation, in its order."""
    hidden_states: Tensor
    """(M, T, D): each token's state after every layer, the last one after the final norm."""

    def __post_init__(self) -> None:
        tokens = self.token_ids.shape[0]
        for picture in self.pictures:
            if picture.attention.shape[2] != tokens:
                raise ValueError(
                    f"attention must be (M, N, {tokens}, h, w),"
                    f" got {tuple(picture.attention.shape)}"
                )
        if self.hidden_states.ndim != 3 or self.hidden_states.shape[1] != tokens:
            raise ValueError(
                f"hidden_states must be (M, {tokens}, D), got {tuple(self.hidden_states.shape)}"
            )

    @property
    def attention(self) -> Tensor:
        """The only picture's attention."""
        return self._only.attention

    @property
    def geometry(self) -> ImageGeometry:
        """The only picture's geometry."""
        return self._only.geometry

    @property
    def _only(self) -> WordImageAttention:
        if len(self.pictures) != 1:
            raise ValueError(f"the conversation has {len(self.pictures)} pictures; choose one")
        return self.pictures[0]
