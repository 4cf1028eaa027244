"""Request models of POST /v1/chat/completions."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from flmm.serve.common.request_models import (
    GenerationOptions,
    Grounding,
    PositiveCount,
    StrictModel,
    Text,
)


class TextPart(StrictModel):
    type: Literal["text"]
    text: Text


class ImageUrl(StrictModel):
    url: str = Field(description="data:image/png;base64,… (PNG, JPEG, WebP or GIF).")
    detail: Literal["auto", "low", "high"] | None = Field(
        default=None, description="Accepted and ignored: the model has one resolution."
    )


class ImagePart(StrictModel):
    type: Literal["image_url"]
    image_url: ImageUrl


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class SystemMessage(StrictModel):
    role: Literal["system", "developer"]
    content: Text | list[TextPart]
    name: str | None = None


class UserMessage(StrictModel):
    role: Literal["user"]
    content: Text | list[ContentPart]
    name: str | None = None


class AssistantMessage(StrictModel):
    """An earlier answer of this server, as it was sent; its grounding is ignored."""

    role: Literal["assistant"]
    content: Text | list[TextPart]
    name: str | None = None
    refusal: None = None
    grounding: list[JsonValue] | None = None


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(StrictModel):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ResponseFormat(StrictModel):
    type: Literal["text"]


class ChatRequest(GenerationOptions):
    """OpenAI's chat request with ``grounding``; some of OpenAI's fields accept one value only."""

    model: str = Field(description="A model's id, from /v1/models.")
    messages: list[ChatMessage] = Field(min_length=1)
    grounding: Grounding | None = Field(
        default=None, description="If given, the message has its phrases and their masks."
    )
    max_completion_tokens: PositiveCount | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    top_p: Annotated[float, Field(ge=1, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logprobs: Literal[False] | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None

    @property
    def max_new_tokens(self) -> int | None:
        return self.max_tokens or self.max_completion_tokens

    @model_validator(mode="after")
    def _check_max_tokens(self) -> "ChatRequest":
        both = self.max_tokens, self.max_completion_tokens
        if None not in both and both[0] != both[1]:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self
