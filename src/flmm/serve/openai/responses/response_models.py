"""Reply models of POST /v1/responses: the response, and the events of a streamed one."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from flmm.serve.common.response_models import ReplyModel, is_none
from flmm.serve.openai.response_models import GroundedPhrases, StreamedPhrase

MessageStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(ReplyModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: tuple[()] = ()
    logprobs: tuple[()] = ()


class OutputMessage(ReplyModel):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: MessageStatus
    content: list[OutputText]
    grounding: GroundedPhrases = None


class InputTokensDetails(ReplyModel):
    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputTokensDetails(ReplyModel):
    reasoning_tokens: int = 0


class ResponsesUsage(ReplyModel):
    input_tokens: int = Field(description="The pictures' tokens are included.")
    input_tokens_details: InputTokensDetails = InputTokensDetails()
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class ResponseErrorReply(ReplyModel):
    code: Literal["server_error", "invalid_prompt"]
    message: str


class IncompleteDetails(ReplyModel):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class TextFormat(ReplyModel):
    type: Literal["text"] = "text"


class TextSettingsReply(ReplyModel):
    format: TextFormat = TextFormat()


class ReasoningReply(ReplyModel):
    effort: None = None
    summary: None = None


class ResponseReply(ReplyModel):
    """A response; what the server does not have is null or empty, as clients expect it."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False] = False
    error: ResponseErrorReply | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, JsonValue]
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool = True
    previous_response_id: None = None
    reasoning: ReasoningReply = ReasoningReply()
    store: Literal[False] = False
    temperature: float
    text: TextSettingsReply = TextSettingsReply()
    tool_choice: Literal["auto"] = "auto"
    tools: tuple[()] = ()
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponsesUsage | None = None


class ResponseEvent(ReplyModel):
    """An event of a streamed response."""

    type: str
    sequence_number: int


class WholeResponseEvent(ResponseEvent):
    response: ResponseReply


class OutputItemEvent(ResponseEvent):
    output_index: Literal[0] = 0
    item: OutputMessage


class ContentEvent(ResponseEvent):
    item_id: str
    output_index: Literal[0] = 0
    content_index: Literal[0] = 0


class ContentPartEvent(ContentEvent):
    part: OutputText


class TextDeltaEvent(ContentEvent):
    delta: str
    logprobs: tuple[()] = ()
    grounding: Annotated[list[StreamedPhrase] | None, Field(exclude_if=is_none)] = None


class TextDoneEvent(ContentEvent):
    text: str
    logprobs: tuple[()] = ()
