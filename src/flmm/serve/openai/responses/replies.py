"""Replies of POST /v1/responses, whole and streamed."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from flmm.serve.common.mask_formats import build_phrase_reply
from flmm.serve.common.response_models import PhraseReply
from flmm.serve.common.responses import format_event
from flmm.serve.errors import APIError
from flmm.serve.openai.response_models import StreamedPhrase
from flmm.serve.openai.responses.request_models import ResponsesRequest
from flmm.serve.openai.responses.response_models import (
    ContentPartEvent,
    IncompleteDetails,
    MessageStatus,
    OutputItemEvent,
    OutputMessage,
    OutputText,
    ResponseErrorReply,
    ResponseEvent,
    ResponseReply,
    ResponsesUsage,
    TextDeltaEvent,
    TextDoneEvent,
    WholeResponseEvent,
)
from flmm.serve.workers.events import (
    AnswerFinished,
    JobEvent,
    LocatedPhrase,
    PhraseFound,
    TextDelta,
)


@dataclass
class ResponsesReplies:
    """Builds the replies to one request; an ``EventEncoder`` of its job's events."""

    body: ResponsesRequest
    prompt_tokens: int
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    message_id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    _num_events: int = 0
    _num_phrases: int = 0

    def build_reply(self, events: Sequence[AnswerFinished]) -> ResponseReply:
        """Return the whole answer as one reply."""
        (event,) = events
        is_cut = event.finish_reason == "length"
        usage = ResponsesUsage(
            input_tokens=self.prompt_tokens,
            output_tokens=event.num_tokens,
            total_tokens=self.prompt_tokens + event.num_tokens,
        )
        return self._build_reply("incomplete" if is_cut else "completed").model_copy(
            update={
                "output": [self._build_message(event)],
                "usage": usage,
                "incomplete_details": IncompleteDetails() if is_cut else None,
            }
        )

    def begin(self) -> list[str]:
        """Return the events before the text."""
        reply = self._build_reply("in_progress")
        message = self._message("in_progress", [])
        return [
            self._format("created", WholeResponseEvent, response=reply),
            self._format("in_progress", WholeResponseEvent, response=reply),
            self._format("output_item.added", OutputItemEvent, item=message),
            self._format_content("content_part.added", ContentPartEvent, part=OutputText(text="")),
        ]

    def encode(self, _: int, event: JobEvent) -> list[str]:
        """Return the events for one of the job's."""
        if isinstance(event, TextDelta):
            return [self._format_content("output_text.delta", TextDeltaEvent, delta=event.text)]
        if isinstance(event, PhraseFound):
            phrase = self._build_phrase(event.located_phrase)
            streamed = StreamedPhrase(**dict(phrase), index=self._num_phrases)
            self._num_phrases += 1
            return [
                self._format_content(
                    "output_text.delta", TextDeltaEvent, delta="", grounding=[streamed]
                )
            ]
        assert isinstance(event, AnswerFinished)
        response = self.build_reply([event])
        (message,) = response.output
        (part,) = message.content
        return [
            self._format_content("output_text.done", TextDoneEvent, text=part.text),
            self._format_content("content_part.done", ContentPartEvent, part=part),
            self._format("output_item.done", OutputItemEvent, item=message),
            self._format(response.status, WholeResponseEvent, response=response),
        ]

    def end(self) -> list[str]:
        """Return nothing: the response's own event is the last."""
        return []

    def fail(self, error: APIError) -> list[str]:
        """Return the event of a response that failed."""
        code: Literal["server_error", "invalid_prompt"] = (
            "server_error" if error.status >= 500 else "invalid_prompt"
        )
        reply = self._build_reply("failed").model_copy(
            update={"error": ResponseErrorReply(code=code, message=error.message)}
        )
        return [self._format("failed", WholeResponseEvent, response=reply)]

    def _build_reply(
        self, status: Literal["in_progress", "completed", "incomplete", "failed"]
    ) -> ResponseReply:
        body = self.body
        return ResponseReply(
            id=self.id,
            created_at=self.created,
            status=status,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            metadata=body.metadata or {},
            model=body.model,
            output=[],
            temperature=body.temperature or 0.0,
            top_p=1.0 if body.top_p is None else body.top_p,
        )

    def _build_message(self, event: AnswerFinished) -> OutputMessage:
        status: MessageStatus = "incomplete" if event.finish_reason == "length" else "completed"
        phrases = None
        if self.body.grounding is not None:
            phrases = [self._build_phrase(located) for located in event.phrases]
        return self._message(status, [OutputText(text=event.text)], phrases)

    def _message(
        self,
        status: MessageStatus,
        content: list[OutputText],
        phrases: list[PhraseReply] | None = None,
    ) -> OutputMessage:
        return OutputMessage(id=self.message_id, status=status, content=content, grounding=phrases)

    def _build_phrase(self, located: LocatedPhrase) -> PhraseReply:
        grounding = self.body.grounding
        mask_format = "rle" if grounding is None else grounding.mask_format
        return build_phrase_reply(located.phrase, located.picture_index, mask_format)

    def _format_content(self, name: str, model: type[ResponseEvent], **fields: object) -> str:
        return self._format(name, model, item_id=self.message_id, **fields)

    def _format(self, name: str, model: type[ResponseEvent], **fields: object) -> str:
        event = model.model_validate(
            {"type": f"response.{name}", "sequence_number": self._num_events, **fields}
        )
        self._num_events += 1
        return format_event(event.model_dump_json(), event.type)
