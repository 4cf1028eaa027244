"""The replies to OpenAI clients, field by field."""

from typing import Annotated, Literal

from pydantic import Field

from flmm.serve.common.replies import PhraseReply, Reply, _is_none

Phrases = Annotated[list[PhraseReply] | None, Field(exclude_if=_is_none)]
"""Left out where no grounding is asked for."""


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
