"""Reply models of the OpenAI routes."""

from typing import Annotated, Literal

from pydantic import Field

from flmm.serve.common.response_models import PhraseReply, ReplyModel, is_none

GroundedPhrases = Annotated[list[PhraseReply] | None, Field(exclude_if=is_none)]
"""Omitted where no grounding is requested."""


class StreamedPhrase(PhraseReply):
    """A phrase in an event of a streamed answer."""

    index: int = Field(description="Which phrase of the answer it is, by which clients add it.")


class Usage(ReplyModel):
    prompt_tokens: int = Field(description="The pictures' tokens are included.")
    completion_tokens: int
    total_tokens: int


class AssistantReply(ReplyModel):
    role: Literal["assistant"] = "assistant"
    content: str
    grounding: GroundedPhrases = None


class Choice(ReplyModel):
    index: int = Field(description="Which of the answers.")
    message: AssistantReply
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class Completion(ReplyModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class ChoiceDelta(ReplyModel):
    role: Annotated[Literal["assistant"] | None, Field(exclude_if=is_none)] = None
    content: Annotated[str | None, Field(exclude_if=is_none)] = None
    grounding: Annotated[list[StreamedPhrase] | None, Field(exclude_if=is_none)] = None


class ChunkChoice(ReplyModel):
    index: int = Field(description="Which of the answers.")
    delta: ChoiceDelta
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: None = None


class ChatCompletionChunk(ReplyModel):
    """One event of a streamed completion."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Annotated[Usage | None, Field(exclude_if=is_none)] = None


class ModelReply(ReplyModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["flmm"] = "flmm"


class ModelList(ReplyModel):
    object: Literal["list"] = "list"
    data: list[ModelReply]
