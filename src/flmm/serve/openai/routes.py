"""POST /v1/chat/completions and GET /v1/models, as OpenAI's clients know them."""

import time
import uuid
from dataclasses import dataclass

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from flmm.serve.common.mask_formats import phrase_reply
from flmm.serve.common.openapi import _PICTURE, _QUESTION, REFUSALS, _body
from flmm.serve.common.replies import PhraseReply
from flmm.serve.common.requests import MaskFormat
from flmm.serve.common.responses import EventStream, finished
from flmm.serve.errors import Problem
from flmm.serve.openai.messages import read_conversation
from flmm.serve.openai.replies import (
    AssistantReply,
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    Delta,
    ModelList,
    ModelReply,
    Usage,
)
from flmm.serve.openai.requests import ChatRequest
from flmm.serve.protection.request_bodies import read_json
from flmm.serve.service import Service
from flmm.serve.workers.chat_job import Question
from flmm.serve.workers.events import Event, Finished, Located, PhraseFound, TextSaid
from flmm.stopwatch import Stopwatch

CHAT = _body(
    ChatRequest,
    {
        "model": "embedded:head",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": _PICTURE}},
                    {"type": "text", "text": _QUESTION},
                ],
            }
        ],
        "grounding": {"mask_format": "rle"},
        "max_tokens": 60,
    },
    multipart=False,
)


def chat_routes(service: Service) -> APIRouter:
    """The routes, for one service."""
    router = APIRouter(tags=["OpenAI"])
    started = int(time.time())
    listed = ModelReply(id=service.pipeline.model, created=started)

    @router.post(
        "/v1/chat/completions",
        response_model=Completion,
        openapi_extra=CHAT,
        responses=REFUSALS,
    )
    async def chat_completions(request: Request) -> Response:
        """Answer the last message of a conversation about pictures.

        With `grounding`, the message carries the answer's phrases and their masks. With `stream`,
        events come as the answer is said, each phrase in its own as soon as it is complete.
        """
        with service.admitted() as slot:
            body = await read_json(request, ChatRequest, service.limits)
            if body.model != service.pipeline.model:
                raise Problem(
                    404,
                    "model_not_found",
                    f"there is no model {body.model[:200]!r}; this server has"
                    f" {service.pipeline.model!r}",
                    "model",
                )
            watch = Stopwatch()

            def prepare() -> Question:
                with watch.stage("picture"):
                    most, read = service.limits.pictures, service.pictures.from_url
                    asked = read_conversation(body.messages, most, read)
                    return service.question(asked, body, body.grounding, bool(body.stream))

            question = await service.made_ready(prepare)
            replies = _Replies.of(body, question)
            running = service.speak(question, slot, watch)
        if body.stream:
            return EventStream(running, replies.chunk(Delta(role="assistant")), replies.chunks)
        return await finished(request, running, Finished, replies.whole)

    @router.get("/v1/models", responses=REFUSALS)
    async def models() -> ModelList:
        """The one model of this server."""
        return ModelList(data=[listed])

    @router.get("/v1/models/{model:path}", responses=REFUSALS)
    async def model_named(model: str) -> ModelReply:
        """A model by its id."""
        if model != listed.id:
            raise Problem(404, "model_not_found", f"there is no model {model[:200]!r}", "model")
        return listed

    return router


@dataclass(frozen=True)
class _Replies:
    """From a job's events to what a client is told."""

    id: str
    created: int
    model: str
    kind: MaskFormat | None
    """None where no grounding is asked for."""
    prompt_tokens: int
    tells_usage: bool

    @classmethod
    def of(cls, body: ChatRequest, question: Question) -> "_Replies":
        options = body.stream_options
        return cls(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=body.model,
            kind=None if body.grounding is None else body.grounding.mask_format,
            prompt_tokens=question.prompt.length,
            tells_usage=options is not None and options.include_usage,
        )

    def whole(self, end: Finished) -> Completion:
        """The answer in one."""
        grounding = None
        if self.kind is not None:
            grounding = [self._phrase(located) for located in end.phrases]
        message = AssistantReply(content=end.text, grounding=grounding)
        return Completion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[Choice(message=message, finish_reason=end.reason)],
            usage=self._usage(end),
        )

    def chunks(self, event: Event) -> list[BaseModel]:
        """An event of a streamed answer."""
        if isinstance(event, TextSaid):
            return [self.chunk(Delta(content=event.text))]
        if isinstance(event, PhraseFound):
            return [self.chunk(Delta(grounding=[self._phrase(event.located)]))]
        assert isinstance(event, Finished)
        last = ChunkChoice(delta=Delta(), finish_reason=event.reason)
        chunks: list[BaseModel] = [self._chunk([last])]
        if self.tells_usage:
            chunks.append(self._chunk([], self._usage(event)))
        return chunks

    def chunk(self, delta: Delta) -> Chunk:
        """What is new."""
        return self._chunk([ChunkChoice(delta=delta)])

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | None = None) -> Chunk:
        return Chunk(
            id=self.id, created=self.created, model=self.model, choices=choices, usage=usage
        )

    def _phrase(self, located: Located) -> PhraseReply:
        return phrase_reply(located.phrase, located.picture, self.kind or "rle")

    def _usage(self, end: Finished) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=end.tokens,
            total_tokens=self.prompt_tokens + end.tokens,
        )
