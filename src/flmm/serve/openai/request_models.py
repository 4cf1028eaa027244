"""The request model of POST /v1/chat/completions."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from flmm.serve.common.request_models import GenerationOptions, Grounding
from flmm.serve.common.strict_model import TokenLimit
from flmm.serve.openai.client_fields import (
    ClientFields,
    ClientModel,
    check_effort,
    check_text_format,
    check_verbosity,
    unsupported,
)
from flmm.serve.openai.message_models import ChatMessage


class StreamOptions(ClientModel):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ChatRequest(ClientFields, GenerationOptions):
    """OpenAI's chat request with ``grounding``."""

    unused_fields: ClassVar[dict[str, str]] = {
        **ClientFields.unused_fields,
        "store": "nothing is stored",
        "functions": "the model calls none",
        "function_call": "the model calls no functions",
        "prediction": "it cannot change the answer",
    }

    model: str = Field(description="A model's id, from /v1/models.")
    messages: list[ChatMessage] = Field(min_length=1)
    grounding: Grounding | None = Field(
        default=None, description="If given, the message has its phrases and their masks."
    )
    max_completion_tokens: TokenLimit | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = Field(
        default=None, description="Answers to the same question."
    )
    logprobs: bool | None = Field(default=None, description="Only false.")
    logit_bias: dict[str, float] | None = Field(default=None, description="Only without a bias.")
    response_format: JsonValue = Field(default=None, description='Only {"type": "text"}.')
    reasoning_effort: str | None = Field(default=None, description="Only none.")
    verbosity: str | None = Field(default=None, description="Only medium.")
    modalities: list[str] | None = Field(default=None, description="Only text.")
    store: bool | None = None
    functions: list[JsonValue] | None = None
    function_call: JsonValue = Field(default=None, description="none or auto.")
    prediction: dict[str, JsonValue] | None = None

    _check_effort = field_validator("reasoning_effort")(check_effort)
    _check_verbosity = field_validator("verbosity")(check_verbosity)
    _check_response_format = field_validator("response_format")(check_text_format)

    @property
    def max_new_tokens(self) -> int | None:
        return self.max_tokens or self.max_completion_tokens

    @field_validator("logprobs", mode="after")
    @classmethod
    def _refuse_logprobs(cls, value: bool | None) -> bool | None:
        if value:
            raise unsupported("log probabilities are not returned; leave it out")
        return value

    @field_validator("logit_bias", mode="after")
    @classmethod
    def _refuse_bias(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value and any(value.values()):
            raise unsupported("tokens cannot be given a bias; leave it out")
        return value

    @field_validator("modalities", mode="after")
    @classmethod
    def _check_modalities(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and value != ["text"]:
            raise unsupported("the model answers with text only; leave it out")
        return value

    @field_validator("function_call", mode="after")
    @classmethod
    def _check_function_call(cls, value: JsonValue) -> JsonValue:
        if value not in (None, "none", "auto"):
            raise unsupported("the model calls no functions; leave it out")
        return value

    @model_validator(mode="after")
    def _check_max_tokens(self) -> "ChatRequest":
        both = self.max_tokens, self.max_completion_tokens
        if None not in both and both[0] != both[1]:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self
