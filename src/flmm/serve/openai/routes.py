"""POST /v1/chat/completions and GET /v1/models, as OpenAI's clients know them."""

import time
import uuid
from dataclasses import dataclass

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from flmm.serve.common.mask_formats import build_phrase_reply
from flmm.serve.common.openapi import (
    ERROR_RESPONSES,
    EXAMPLE_PICTURE,
    EXAMPLE_QUESTION,
    describe_body,
)
from flmm.serve.common.replies import PhraseReply
from flmm.serve.common.requests import MaskFormat
from flmm.serve.common.responses import EventStreamResponse, respond_when_finished
from flmm.serve.errors import APIError
from flmm.serve.openai.messages import read_conversation
from flmm.serve.openai.replies import (
    AssistantReply,
    ChatCompletionChunk,
    Choice,
    ChoiceDelta,
    ChunkChoice,
    Completion,
    ModelList,
    ModelReply,
    Usage,
)
from flmm.serve.openai.requests import ChatRequest
from flmm.serve.protection.request_bodies import read_json
from flmm.serve.service import Service
from flmm.serve.workers.chat_job import ChatInputs
from flmm.serve.workers.events import (
    AnswerFinished,
    JobEvent,
    LocatedPhrase,
    PhraseFound,
    TextDelta,
)
from flmm.stopwatch import Stopwatch

CHAT_BODY = describe_body(
    ChatRequest,
    {
        "model": "embedded:head",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": EXAMPLE_PICTURE}},
                    {"type": "text", "text": EXAMPLE_QUESTION},
                ],
            }
        ],
        "grounding": {"mask_format": "rle"},
        "max_tokens": 60,
    },
    multipart=False,
)


def create_openai_router(service: Service) -> APIRouter:
    """The routes, for one service."""
    router = APIRouter(tags=["OpenAI"])
    started = int(time.time())
    listed = ModelReply(id=service.pipeline.head_name, created=started)

    @router.post(
        "/v1/chat/completions",
        response_model=Completion,
        openapi_extra=CHAT_BODY,
        responses=ERROR_RESPONSES,
    )
    async def chat_completions(request: Request) -> Response:
        """Answer the last message of a conversation about pictures.

        With `grounding`, the message carries the answer's phrases and their masks. With `stream`,
        events come as the answer is said, each phrase in its own as soon as it is complete.
        """
        with service.admit() as slot:
            body = await read_json(request, ChatRequest, service.limits)
            if body.model != service.pipeline.head_name:
                raise APIError(
                    404,
                    "model_not_found",
                    f"there is no model {body.model[:200]!r}; this server has"
                    f" {service.pipeline.head_name!r}",
                    "model",
                )
            watch = Stopwatch()

            def prepare() -> ChatInputs:
                with watch.stage("picture"):
                    most, read = service.limits.pictures, service.picture_reader.read_url
                    asked = read_conversation(body.messages, most, read)
                    return service.prepare_chat(asked, body, body.grounding, bool(body.stream))

            question = await service.run_in_thread(prepare)
            replies = _ReplyBuilder.from_request(body, question)
            running = service.submit_chat(question, slot, watch)
        if body.stream:
            return EventStreamResponse(
                running,
                replies.build_delta_chunk(ChoiceDelta(role="assistant")),
                replies.build_chunks,
            )
        return await respond_when_finished(
            request, running, AnswerFinished, replies.build_completion
        )

    @router.get("/v1/models", responses=ERROR_RESPONSES)
    async def models() -> ModelList:
        """The one model of this server."""
        return ModelList(data=[listed])

    @router.get("/v1/models/{model:path}", responses=ERROR_RESPONSES)
    async def model_named(model: str) -> ModelReply:
        """A model by its id."""
        if model != listed.id:
            raise APIError(404, "model_not_found", f"there is no model {model[:200]!r}", "model")
        return listed

    return router


@dataclass(frozen=True)
class _ReplyBuilder:
    """From a job's events to what a client is told."""

    id: str
    created: int
    model: str
    mask_format: MaskFormat | None
    """None where no grounding is asked for."""
    prompt_tokens: int
    include_usage: bool

    @classmethod
    def from_request(cls, body: ChatRequest, inputs: ChatInputs) -> "_ReplyBuilder":
        options = body.stream_options
        return cls(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=body.model,
            mask_format=None if body.grounding is None else body.grounding.mask_format,
            prompt_tokens=inputs.prompt.length,
            include_usage=options is not None and options.include_usage,
        )

    def build_completion(self, end: AnswerFinished) -> Completion:
        """The answer in one."""
        grounding = None
        if self.mask_format is not None:
            grounding = [self._phrase(located) for located in end.phrases]
        message = AssistantReply(content=end.text, grounding=grounding)
        return Completion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[Choice(message=message, finish_reason=end.finish_reason)],
            usage=self._usage(end),
        )

    def build_chunks(self, event: JobEvent) -> list[BaseModel]:
        """An event of a streamed answer."""
        if isinstance(event, TextDelta):
            return [self.build_delta_chunk(ChoiceDelta(content=event.text))]
        if isinstance(event, PhraseFound):
            return [
                self.build_delta_chunk(ChoiceDelta(grounding=[self._phrase(event.located_phrase)]))
            ]
        assert isinstance(event, AnswerFinished)
        last = ChunkChoice(delta=ChoiceDelta(), finish_reason=event.finish_reason)
        chunks: list[BaseModel] = [self._build_chunk([last])]
        if self.include_usage:
            chunks.append(self._build_chunk([], self._usage(event)))
        return chunks

    def build_delta_chunk(self, delta: ChoiceDelta) -> ChatCompletionChunk:
        """What is new."""
        return self._build_chunk([ChunkChoice(delta=delta)])

    def _build_chunk(
        self, choices: list[ChunkChoice], usage: Usage | None = None
    ) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self.id, created=self.created, model=self.model, choices=choices, usage=usage
        )

    def _phrase(self, located: LocatedPhrase) -> PhraseReply:
        return build_phrase_reply(located.phrase, located.picture_index, self.mask_format or "rle")

    def _usage(self, end: AnswerFinished) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=end.num_tokens,
            total_tokens=self.prompt_tokens + end.num_tokens,
        )
