"""Replies of POST /v1/chat/completions, whole and streamed."""

import json
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from flmm.serve.common.mask_formats import build_phrase_reply
from flmm.serve.common.request_models import MaskFormat
from flmm.serve.common.response_models import PhraseReply
from flmm.serve.common.responses import format_event
from flmm.serve.errors import APIError
from flmm.serve.openai.request_models import ChatRequest
from flmm.serve.openai.response_models import (
    AssistantReply,
    ChatCompletionChunk,
    Choice,
    ChoiceDelta,
    ChunkChoice,
    Completion,
    StreamedPhrase,
    Usage,
)
from flmm.serve.workers.events import (
    AnswerFinished,
    FinishReason,
    JobEvent,
    LocatedPhrase,
    PhraseFound,
    TextDelta,
)


@dataclass
class ChatReplies:
    """Builds the replies to one request; an ``EventEncoder`` of its jobs' events."""

    model: str
    num_answers: int
    prompt_tokens: int
    mask_format: MaskFormat | None
    """None where no grounding is requested."""
    include_usage: bool
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    _sent_phrases: Counter[int] = field(default_factory=Counter)
    """How many phrases of each answer are sent."""
    _answer_tokens: list[int] = field(default_factory=list)
    """Of the answers that are finished."""

    @classmethod
    def from_request(cls, body: ChatRequest, prompt_tokens: int) -> "ChatReplies":
        """Return the builder of a request's replies."""
        options = body.stream_options
        return cls(
            model=body.model,
            num_answers=body.n or 1,
            prompt_tokens=prompt_tokens,
            mask_format=None if body.grounding is None else body.grounding.mask_format,
            include_usage=options is not None and options.include_usage,
        )

    def build_reply(self, events: Sequence[AnswerFinished]) -> Completion:
        """Return all answers as one reply."""
        return Completion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[self._build_choice(index, event) for index, event in enumerate(events)],
            usage=self._build_usage(sum(event.num_tokens for event in events)),
        )

    def _build_choice(self, index: int, event: AnswerFinished) -> Choice:
        grounding = None
        if self.mask_format is not None:
            grounding = [self._build_phrase(located) for located in event.phrases]
        message = AssistantReply(content=event.text, grounding=grounding)
        return Choice(index=index, message=message, finish_reason=event.finish_reason)

    def begin(self) -> list[str]:
        """Return each answer's first chunk, which says whose it is."""
        delta = ChoiceDelta(role="assistant")
        return [self._format_delta(index, delta) for index in range(self.num_answers)]

    def encode(self, index: int, event: JobEvent) -> list[str]:
        """Return an event's chunk."""
        if isinstance(event, TextDelta):
            return [self._format_delta(index, ChoiceDelta(content=event.text))]
        if isinstance(event, PhraseFound):
            phrase = self._build_phrase(event.located_phrase)
            streamed = StreamedPhrase(**dict(phrase), index=self._sent_phrases[index])
            self._sent_phrases[index] += 1
            return [self._format_delta(index, ChoiceDelta(grounding=[streamed]))]
        assert isinstance(event, AnswerFinished)
        self._answer_tokens.append(event.num_tokens)
        return [self._format_delta(index, ChoiceDelta(), event.finish_reason)]

    def end(self) -> list[str]:
        """Return the tokens used, if they are requested, and the end."""
        events = []
        if self.include_usage:
            usage = self._build_usage(sum(self._answer_tokens))
            events.append(self._format_chunk([], usage))
        return [*events, format_event("[DONE]")]

    def fail(self, error: APIError) -> list[str]:
        """Return an error's event."""
        return [format_event(json.dumps(error.to_dict()))]

    def _format_delta(
        self, index: int, delta: ChoiceDelta, finish_reason: FinishReason | None = None
    ) -> str:
        return self._format_chunk(
            [ChunkChoice(index=index, delta=delta, finish_reason=finish_reason)]
        )

    def _format_chunk(self, choices: list[ChunkChoice], usage: Usage | None = None) -> str:
        chunk = ChatCompletionChunk(
            id=self.id, created=self.created, model=self.model, choices=choices, usage=usage
        )
        return format_event(chunk.model_dump_json())

    def _build_phrase(self, located: LocatedPhrase) -> PhraseReply:
        return build_phrase_reply(located.phrase, located.picture_index, self.mask_format or "rle")

    def _build_usage(self, answer_tokens: int) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=answer_tokens,
            total_tokens=self.prompt_tokens + answer_tokens,
        )
