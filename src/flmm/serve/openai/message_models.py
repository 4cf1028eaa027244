"""Models of the messages of POST /v1/chat/completions."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator

from flmm.serve.common.strict_model import Text
from flmm.serve.openai.client_fields import ClientModel, unsupported

Detail = Literal["auto", "low", "high", "original"]
_NOT_CACHED = "it cannot change the answer"


class TextPart(ClientModel):
    unused_fields: ClassVar[dict[str, str]] = {"cache_control": _NOT_CACHED}

    type: Literal["text"]
    text: Text
    cache_control: JsonValue = None


class ImageUrl(ClientModel):
    url: str = Field(description="data:image/png;base64,… (PNG, JPEG, WebP or GIF).")
    detail: Detail | None = Field(
        default=None, description="Accepted and ignored: the model has one resolution."
    )


class ImagePart(ClientModel):
    unused_fields: ClassVar[dict[str, str]] = {"cache_control": _NOT_CACHED}

    type: Literal["image_url"]
    image_url: ImageUrl | str
    cache_control: JsonValue = None

    @property
    def url(self) -> str:
        """The picture's URL, which may be given with or without an object around it."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class SystemMessage(ClientModel):
    role: Literal["system", "developer"]
    content: Text | list[TextPart] = ""
    name: str | None = None


class UserMessage(ClientModel):
    role: Literal["user"]
    content: Text | list[ContentPart] = ""
    name: str | None = None


class AssistantMessage(ClientModel):
    """An earlier answer of this server, as it was sent or as a client read it."""

    unused_fields: ClassVar[dict[str, str]] = {
        "annotations": "an earlier answer's text is read, and nothing else of it",
        "provider_specific_fields": "an earlier answer's text is read, and nothing else of it",
    }

    role: Literal["assistant"]
    content: Text | list[TextPart] = ""
    name: str | None = None
    refusal: None = None
    tool_calls: list[JsonValue] | None = Field(default=None, description="None, or an empty list.")
    function_call: JsonValue = None
    audio: JsonValue = None
    annotations: list[JsonValue] | None = None
    provider_specific_fields: dict[str, JsonValue] | None = None
    grounding: list[JsonValue] | None = Field(
        default=None, description="Accepted and ignored: the text is read, and nothing else."
    )

    @field_validator("tool_calls", "function_call", "audio", mode="after")
    @classmethod
    def _refuse_calls(cls, value: JsonValue) -> JsonValue:
        if value not in (None, []):
            raise unsupported("the model neither calls tools nor speaks; leave such messages out")
        return value


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]
