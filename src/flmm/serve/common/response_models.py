"""Reply models that the OpenAI and the plain routes share."""

from pydantic import BaseModel, ConfigDict, Field


class ReplyModel(BaseModel):
    model_config = ConfigDict(frozen=True)


def is_none(value: object) -> bool:
    return value is None


class RunLengthMask(ReplyModel):
    size: tuple[int, int] = Field(description="[H, W]")
    counts: str = Field(description="COCO's compressed run lengths.")


class PolygonMask(ReplyModel):
    size: tuple[int, int] = Field(description="[H, W]")
    polygons: list[list[int]] = Field(
        description="Closed rings [x0, y0, x1, y1, …] along pixel edges; a point is in the mask if"
        " it is inside an odd number of them."
    )


class PngMask(ReplyModel):
    size: tuple[int, int] = Field(description="[H, W]")
    png: str = Field(description="data:image/png;base64,…, black and white.")


class PhraseReply(ReplyModel):
    text: str
    start: int = Field(description="In code points of the text.")
    end: int
    score: float = Field(
        description="The probability that the phrase is in the picture and its mask right; without"
        " a calibrated head, the mean probability inside the mask. 0 when that is empty."
    )
    box: tuple[int, int, int, int] = Field(description="[x0, y0, x1, y1]; x1 and y1 exclusive.")
    area: int = Field(description="Pixels in the mask.")
    mask: RunLengthMask | PolygonMask | PngMask
    picture: int = Field(description="Which of the conversation's pictures, from 0.")
