"""Reply models of the plain routes."""

from typing import Annotated

from pydantic import Field

from flmm.serve.common.response_models import PhraseReply, ReplyModel, is_none


class AnswerReply(ReplyModel):
    """An answer, with the same fields as on the command line and in Python."""

    text: str
    model: str
    lmm: str
    size: tuple[int, int] = Field(description="[H, W] of the picture.")
    phrases: list[PhraseReply]
    timings: dict[str, float] = Field(description="Seconds by stage.")


class MapReply(ReplyModel):
    """One attention map."""

    png: str = Field(description="data:image/png;base64,…, 8-bit grey; 255 is `most`.")
    most: float = Field(description="The largest value: a share of the head's attention.")


class MapsReply(ReplyModel):
    """The maps of all layers and heads, each scaled to its own maximum: faint ones are visible."""

    png: str = Field(
        description="data:image/png;base64,…, 8-bit grey: a row of maps a layer, a column a head."
    )
    most: list[list[float]] = Field(description="The value of 255, for each layer and each head.")
    on_picture: list[list[float]] = Field(
        description="The share of each head's attention that is on the picture, in each layer."
    )


class AttendedWordReply(ReplyModel):
    text: str
    start: int = Field(description="In code points of the text.")
    end: int
    on_picture: float = Field(description="The share of the attention that is on the picture.")
    map: MapReply = Field(description="Of the size of `grid`.")
    each: Annotated[MapsReply | None, Field(exclude_if=is_none)] = None


class AttentionReply(ReplyModel):
    question: str
    text: str
    lmm: str
    size: tuple[int, int] = Field(description="[H, W] of the picture.")
    grid: tuple[int, int] = Field(description="[h, w] of a map, which covers `canvas`.")
    canvas: tuple[int, int] = Field(description="[height, width] that the model sees, in pixels.")
    place: tuple[int, int, int, int] = Field(
        description="[top, left, height, width] of the picture on the canvas."
    )
    layers: int
    heads: int
    words: list[AttendedWordReply]
    timings: dict[str, float] = Field(description="Seconds by stage.")
