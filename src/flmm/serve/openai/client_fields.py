"""Fields that OpenAI's clients send and that cannot change the answer, or must be refused."""

from typing import ClassVar, Self

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from flmm.serve.common.request_models import SamplingOptions
from flmm.serve.common.strict_model import StrictModel
from flmm.serve.common.unused_fields import UnusedFields
from flmm.serve.errors import UNSUPPORTED_VALUE


def unsupported(reason: str) -> PydanticCustomError:
    """Return a validator's error for what the model cannot do; ``reason`` is for people."""
    return PydanticCustomError(UNSUPPORTED_VALUE, "{reason}", {"reason": reason})


class ClientModel(StrictModel):
    """A strict model that takes unknown fields if they are null, as clients write their defaults.

    The context of a validation is an ``UnusedFields``, or None.
    """

    unused_fields: ClassVar[dict[str, str]] = {}
    """Fields that are taken and not used, with the reason."""

    @model_validator(mode="before")
    @classmethod
    def _drop_unknown_nulls(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, dict):
            return value
        kept = {}
        for name, part in value.items():
            if part is not None or name in cls.model_fields:
                kept[name] = part
            elif isinstance(info.context, UnusedFields):
                info.context.add(name, "it is null")
        return kept

    @model_validator(mode="after")
    def _report_unused_fields(self, info: ValidationInfo) -> Self:
        if isinstance(info.context, UnusedFields):
            for name, reason in self.unused_fields.items():
                if getattr(self, name) is not None:
                    info.context.add(name, reason)
        return self


class ClientFields(ClientModel, SamplingOptions):
    """What the requests of both of OpenAI's interfaces have in common."""

    unused_fields: ClassVar[dict[str, str]] = {
        "tools": "the model calls none",
        "tool_choice": "the model calls no tools",
        "parallel_tool_calls": "the model calls no tools",
        "metadata": "nothing is stored",
        "user": "it tells who asks",
        "safety_identifier": "it tells who asks",
        "service_tier": "there is one",
        "prompt_cache_key": "it cannot change the answer",
        "prompt_cache_retention": "it cannot change the answer",
        "top_logprobs": "no log probabilities are returned",
    }

    tools: list[JsonValue] | None = Field(
        default=None, description="Accepted and not used: the model calls none."
    )
    tool_choice: JsonValue = Field(default=None, description="none or auto.")
    parallel_tool_calls: bool | None = None
    metadata: dict[str, JsonValue] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=0)

    @model_validator(mode="after")
    def _report_unused_sampling(self, info: ValidationInfo) -> Self:
        if not self.temperature and isinstance(info.context, UnusedFields):
            for name in ("top_p", "top_k", "min_p"):
                if getattr(self, name) is not None:
                    info.context.add(name, "at temperature 0 the likeliest token is taken")
        return self

    @field_validator("tool_choice", mode="after")
    @classmethod
    def _check_tool_choice(cls, value: JsonValue) -> JsonValue:
        choice = value
        if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
            inner = choice.get("allowed_tools", choice)
            choice = inner.get("mode") if isinstance(inner, dict) else None
        if choice not in (None, "none", "auto"):
            raise unsupported("the model calls no tools; give 'none' or 'auto', or leave it out")
        return value


def check_effort(value: str | None) -> str | None:
    """Refuse an effort of reasoning but "none"; a validator.

    Raises:
        PydanticCustomError: it is another.
    """
    if value not in (None, "none"):
        raise unsupported(f"the model has no effort {value[:50]!r} to choose; leave it out")
    return value


def check_verbosity(value: str | None) -> str | None:
    """Refuse a verbosity but "medium"; a validator.

    Raises:
        PydanticCustomError: it is another.
    """
    if value not in (None, "medium"):
        raise unsupported("the model has no verbosity to choose; say it in the question")
    return value


def check_text_format(value: JsonValue) -> JsonValue:
    """Refuse an answer's format but text; a validator.

    Raises:
        PydanticCustomError: it is another.
    """
    kind = value.get("type") if isinstance(value, dict) else value
    if kind not in (None, "text"):
        raise unsupported(
            "the model cannot be held to JSON or a schema; ask for text, and parse what it says"
        )
    return value
