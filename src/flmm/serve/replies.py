"""What clients are answered, field by field."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Reply(BaseModel):
    model_config = ConfigDict(frozen=True)


def _is_none(value: object) -> bool:
    return value is None


Phrases = Annotated[list["PhraseReply"] | None, Field(exclude_if=_is_none)]
"""Left out where no grounding is asked for."""


class RunLengthMask(Reply):
    size: tuple[int, int] = Field(description="[H, W]")
    counts: str = Field(description="COCO's compressed run lengths.")


class PolygonMask(Reply):
    size: tuple[int, int] = Field(description="[H, W]")
    polygons: list[list[int]] = Field(
        description="Closed rings [x0, y0, x1, y1, …] along pixel edges; a point is in the mask if"
        " it is inside an odd number of them."
    )


class PngMask(Reply):
    size: tuple[int, int] = Field(description="[H, W]")
    png: str = Field(description="data:image/png;base64,…, black and white.")


class PhraseReply(Reply):
    text: str
    start: int = Field(description="In code points of the text.")
    end: int
    score: float = Field(description="Mean probability inside the mask; 0 when it is empty.")
    box: tuple[int, int, int, int] = Field(description="[x0, y0, x1, y1]; x1 and y1 exclusive.")
    area: int = Field(description="Pixels in the mask.")
    mask: RunLengthMask | PolygonMask | PngMask
    picture: int = Field(description="Which of the conversation's pictures, from 0.")


class AnswerReply(Reply):
    """The same as from the command line and in Python."""

    text: str
    model: str
    lmm: str
    size: tuple[int, int] = Field(description="[H, W] of the picture.")
    phrases: list[PhraseReply]
    timings: dict[str, float] = Field(description="Seconds by stage.")


class MapReply(Reply):
    """A map of attention."""

    png: str = Field(description="data:image/png;base64,…, 8-bit grey; 255 is `most`.")
    most: float = Field(description="The largest value: a share of the head's attention.")


class MapsReply(Reply):
    """The maps of all layers and heads; each in its own scale, so that faint ones are seen."""

    png: str = Field(
        description="data:image/png;base64,…, 8-bit grey: a row of maps a layer, a column a head."
    )
    most: list[list[float]] = Field(description="What 255 stands for: of each layer, each head's.")
    on_picture: list[list[float]] = Field(
        description="The share of each head's attention that is on the picture, in each layer."
    )


class AttendedWordReply(Reply):
    text: str
    start: int = Field(description="In code points of the text.")
    end: int
    on_picture: float = Field(description="The share of the attention that is on the picture.")
    map: MapReply = Field(description="Of the size of `grid`.")
    each: Annotated[MapsReply | None, Field(exclude_if=_is_none)] = None


class AttentionReply(Reply):
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


class Usage(Reply):
    prompt_tokens: int = Field(description="The pictures' tokens are among them.")
    completion_tokens: int
    total_tokens: int


class AssistantReply(Reply):
    role: Literal["assistant"] = "assistant"
    content: str
    grounding: Phrases = None


class Choice(Reply):
    index: Literal[0] = 0
    message: AssistantReply
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class Completion(Reply):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Delta(Reply):
    role: Annotated[Literal["assistant"] | None, Field(exclude_if=_is_none)] = None
    content: Annotated[str | None, Field(exclude_if=_is_none)] = None
    grounding: Phrases = None


class ChunkChoice(Reply):
    index: Literal[0] = 0
    delta: Delta
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: None = None


class Chunk(Reply):
    """One event of a streamed completion."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Annotated[Usage | None, Field(exclude_if=_is_none)] = None


class ModelReply(Reply):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["flmm"] = "flmm"


class ModelList(Reply):
    object: Literal["list"] = "list"
    data: list[ModelReply]


class Health(Reply):
    status: Literal["ok", "ending"]
    model: str
    lmm: str
    served: int = Field(description="Requests that are served or wait.")
    queue: int = Field(description="How many of them there may be.")
