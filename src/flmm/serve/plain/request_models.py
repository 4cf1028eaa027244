"""Request models of the plain routes."""

from typing import Annotated

from pydantic import Field, model_validator

from flmm.serve.common.request_models import GenerationOptions, Grounding, MaskRequest
from flmm.serve.common.strict_model import PositiveCount, StrictModel, Text, TokenLimit


class PictureRequest(StrictModel):
    """Fields of every plain request."""

    image: str = Field(description="data:image/png;base64,…, or the file of a multipart body.")


class GroundRequest(PictureRequest, MaskRequest, GenerationOptions):
    """A question about a picture, or a text to ground in it."""

    question: Text | None = Field(
        default=None, description="Needed without text; with it, what the text answers."
    )
    text: Text | None = Field(
        default=None, description="Grounded in the place of a generated answer."
    )
    phrases: list[Text] | None = Field(default=None, min_length=1)
    max_phrases: PositiveCount | None = None

    @model_validator(mode="after")
    def _check_question(self) -> "GroundRequest":
        if self.question is None and self.text is None:
            raise ValueError("give a question, or a text to ground")
        return self

    @property
    def grounding(self) -> Grounding:
        """The options as those of a chat."""
        return Grounding.model_validate(self.model_dump(include=set(Grounding.model_fields)))


class SegmentRequest(PictureRequest, MaskRequest):
    """Phrases to segment in a picture."""

    phrases: list[Text] = Field(min_length=1)


class AttendRequest(PictureRequest):
    """A question about a picture, and the words whose attention maps are returned."""

    question: Text
    words: list[Text] | None = Field(
        default=None,
        min_length=1,
        description="Words or phrases of the answer, as they stand there; by default all words.",
    )
    answer: Text | None = Field(
        default=None, description="Used as the answer; by default the model generates one."
    )
    layer: Annotated[int, Field(ge=0, le=10_000)] | None = Field(
        default=None, description="From 0; by default the mean over all layers."
    )
    head: Annotated[int, Field(ge=0, le=10_000)] | None = Field(
        default=None, description="From 0; by default the mean over all heads."
    )
    each: bool = Field(default=False, description="Adds every layer's and head's map of each word.")
    max_tokens: TokenLimit | None = None
