"""The request model of POST /v1/responses."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator

from flmm.serve.common.request_models import Grounding
from flmm.serve.common.strict_model import Text, TokenLimit
from flmm.serve.openai.client_fields import (
    ClientFields,
    ClientModel,
    check_effort,
    check_text_format,
    check_verbosity,
    unsupported,
)
from flmm.serve.openai.message_models import (
    AssistantMessage,
    ChatMessage,
    Detail,
    ImagePart,
    SystemMessage,
    TextPart,
    UserMessage,
)

_ITEM_REFUSALS = {
    "item_reference": "nothing is kept, so no earlier item can be named; send its text (with the AI"
    " SDK, set providerOptions.openai.store to false)",
    "function_call": "the model calls no tools; leave it out",
    "function_call_output": "the model calls no tools; leave it out",
}
_NOTHING_KEPT = "nothing is kept between requests; send the earlier messages as input"


class TextItem(ClientModel):
    type: Literal["input_text", "output_text"]
    text: Text
    annotations: list[JsonValue] | None = None
    logprobs: list[JsonValue] | None = None


class ImageItem(ClientModel):
    type: Literal["input_image"]
    image_url: str = Field(description="data:image/png;base64,… (PNG, JPEG, WebP or GIF).")
    detail: Detail | None = None


class InputMessage(ClientModel):
    """What the messages of all roles have in common."""

    type: Literal["message"] = "message"
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class SystemInput(InputMessage):
    role: Literal["system", "developer"]
    content: Text | list[TextItem]

    def to_chat_message(self) -> SystemMessage:
        """Return the message in the form of the chat interface."""
        return SystemMessage(role=self.role, content=_join_texts(self.content))


class UserInput(InputMessage):
    role: Literal["user"]
    content: Text | list[Annotated[TextItem | ImageItem, Field(discriminator="type")]]

    def to_chat_message(self) -> UserMessage:
        """Return the message in the form of the chat interface."""
        if isinstance(self.content, str):
            return UserMessage(role="user", content=self.content)
        parts: list[TextPart | ImagePart] = [
            TextPart(type="text", text=part.text)
            if isinstance(part, TextItem)
            else ImagePart(type="image_url", image_url=part.image_url)
            for part in self.content
        ]
        return UserMessage(role="user", content=parts)


class AssistantInput(InputMessage):
    """An earlier answer of this server, as it was sent or as a client wrote it."""

    role: Literal["assistant"]
    content: Text | list[TextItem]
    grounding: list[JsonValue] | None = Field(
        default=None, description="Accepted and ignored: the text is read, and nothing else."
    )

    def to_chat_message(self) -> AssistantMessage:
        """Return the message in the form of the chat interface."""
        return AssistantMessage(role="assistant", content=_join_texts(self.content))


def _join_texts(content: str | list[TextItem]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


InputItem = Annotated[SystemInput | UserInput | AssistantInput, Field(discriminator="role")]


class TextSettings(ClientModel):
    format: JsonValue = None
    verbosity: str | None = None

    _check_format = field_validator("format")(check_text_format)
    _check_verbosity = field_validator("verbosity")(check_verbosity)


class ReasoningSettings(ClientModel):
    unused_fields: ClassVar[dict[str, str]] = {"summary": "the model shows no reasoning"}

    effort: str | None = None
    summary: str | None = None

    _check_effort = field_validator("effort")(check_effort)


class ResponsesStreamOptions(ClientModel):
    include_obfuscation: bool = False


class ResponsesRequest(ClientFields):
    """OpenAI's request for a response, with ``grounding``."""

    unused_fields: ClassVar[dict[str, str]] = {
        **ClientFields.unused_fields,
        "include": "the model has nothing more to show",
        "max_tool_calls": "the model calls no tools",
        "store": "nothing is stored",
        "truncation": "what is too long is refused",
    }

    model: str = Field(description="A model's id, from /v1/models.")
    input: Text | Annotated[list[InputItem], Field(min_length=1)]
    instructions: Text | None = Field(default=None, description="The system message.")
    grounding: Grounding | None = Field(
        default=None, description="If given, the message has its phrases and their masks."
    )
    max_output_tokens: TokenLimit | None = Field(
        default=None, description="At most this many are generated; more than the limit means it."
    )
    stream: bool | None = None
    stream_options: ResponsesStreamOptions | None = None
    text: TextSettings | None = None
    reasoning: ReasoningSettings | None = None
    include: list[str] | None = None
    max_tool_calls: int | None = None
    truncation: Literal["auto", "disabled"] | None = None
    store: bool | None = Field(default=None, description="Nothing is kept.")
    background: bool | None = Field(default=None, description="Only false.")
    previous_response_id: JsonValue = Field(default=None, description="Only null.")
    conversation: JsonValue = Field(default=None, description="Only null.")
    prompt: JsonValue = Field(default=None, description="Only null.")

    @property
    def max_new_tokens(self) -> int | None:
        return self.max_output_tokens

    @property
    def messages(self) -> Sequence[ChatMessage]:
        """The input in the form of the chat interface, without the instructions."""
        if isinstance(self.input, str):
            return [UserMessage(role="user", content=self.input)]
        return [item.to_chat_message() for item in self.input]

    @field_validator("input", mode="before")
    @classmethod
    def _refuse_other_items(cls, value: object) -> object:
        for index, item in enumerate(value if isinstance(value, list) else []):
            kind = item.get("type") if isinstance(item, dict) else None
            if isinstance(kind, str) and kind != "message":
                other = "it is not taken; send messages"
                reason = _ITEM_REFUSALS.get(kind, other)
                raise unsupported(f"item {index} is of type {kind[:50]!r}: {reason}")
        return value

    @field_validator("previous_response_id", "conversation", "prompt", "background")
    @classmethod
    def _refuse_what_is_kept(cls, value: JsonValue) -> JsonValue:
        if value is not None and value is not False:
            raise unsupported(_NOTHING_KEPT)
        return value

    @field_validator("include")
    @classmethod
    def _refuse_logprobs(cls, value: list[str] | None) -> list[str] | None:
        if value and "message.output_text.logprobs" in value:
            raise unsupported("log probabilities are not returned; leave it out")
        return value
