"""POST /v1/chat/completions and GET /v1/models, for OpenAI's clients."""

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
from flmm.serve.common.request_models import MaskFormat
from flmm.serve.common.response_models import PhraseReply
from flmm.serve.common.responses import EventStreamResponse, respond_when_finished
from flmm.serve.errors import APIError
from flmm.serve.openai.messages import read_conversation
from flmm.serve.openai.request_models import ChatRequest
from flmm.serve.openai.response_models import (
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
    """Return the OpenAI routes of a service."""
    router = APIRouter(tags=["OpenAI"])
    started = int(time.time())
    model_reply = ModelReply(id=service.pipeline.model_name, created=started)

    @router.post(
        "/v1/chat/completions",
        response_model=Completion,
        openapi_extra=CHAT_BODY,
        responses=ERROR_RESPONSES,
    )
    async def chat_completions(request: Request) -> Response:
        """Answer the last message of a conversation about pictures.

        With `grounding`, the message has the answer's phrases and their masks. With `stream`,
        events come while the answer is generated, each phrase in its own as soon as it is complete.
        """
        with service.admit() as slot:
            body = await read_json(request, ChatRequest, service.limits)
            if body.model != service.pipeline.model_name:
                raise APIError(
                    404,
                    "model_not_found",
                    f"there is no model {body.model[:200]!r}; this server has"
                    f" {service.pipeline.model_name!r}",
                    "model",
                )
            stopwatch = Stopwatch()

            def prepare() -> ChatInputs:
                with stopwatch.stage("picture"):
                    conversation = read_conversation(
                        body.messages, service.limits.pictures, service.picture_reader.read_url
                    )
                    return service.prepare_chat(
                        conversation, body, body.grounding, bool(body.stream)
                    )

            inputs = await service.run_in_thread(prepare)
            replies = _ReplyBuilder.from_request(body, inputs)
            job = service.submit_chat(inputs, slot, stopwatch)
        if body.stream:
            return EventStreamResponse(
                job, replies.build_delta_chunk(ChoiceDelta(role="assistant")), replies.build_chunks
            )
        return await respond_when_finished(request, job, AnswerFinished, replies.build_completion)

    @router.get("/v1/models", responses=ERROR_RESPONSES)
    async def models() -> ModelList:
        """List the one model of this server."""
        return ModelList(data=[model_reply])

    @router.get("/v1/models/{model:path}", responses=ERROR_RESPONSES)
    async def model_named(model: str) -> ModelReply:
        """Return the model with that id."""
        if model != model_reply.id:
            raise APIError(404, "model_not_found", f"there is no model {model[:200]!r}", "model")
        return model_reply

    return router


@dataclass(frozen=True)
class _ReplyBuilder:
    """Builds the replies to one request from the events of its job."""

    id: str
    created: int
    model: str
    mask_format: MaskFormat | None
    """None where no grounding is requested."""
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

    def build_completion(self, event: AnswerFinished) -> Completion:
        """Return the whole answer as one reply."""
        grounding = None
        if self.mask_format is not None:
            grounding = [self._build_phrase(located) for located in event.phrases]
        message = AssistantReply(content=event.text, grounding=grounding)
        return Completion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[Choice(message=message, finish_reason=event.finish_reason)],
            usage=self._build_usage(event),
        )

    def build_chunks(self, event: JobEvent) -> list[BaseModel]:
        """Return the chunks for an event of a streamed answer."""
        if isinstance(event, TextDelta):
            return [self.build_delta_chunk(ChoiceDelta(content=event.text))]
        if isinstance(event, PhraseFound):
            phrase = self._build_phrase(event.located_phrase)
            return [self.build_delta_chunk(ChoiceDelta(grounding=[phrase]))]
        assert isinstance(event, AnswerFinished)
        last = ChunkChoice(delta=ChoiceDelta(), finish_reason=event.finish_reason)
        chunks: list[BaseModel] = [self._build_chunk([last])]
        if self.include_usage:
            chunks.append(self._build_chunk([], self._build_usage(event)))
        return chunks

    def build_delta_chunk(self, delta: ChoiceDelta) -> ChatCompletionChunk:
        """Return a chunk with that delta."""
        return self._build_chunk([ChunkChoice(delta=delta)])

    def _build_chunk(
        self, choices: list[ChunkChoice], usage: Usage | None = None
    ) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self.id, created=self.created, model=self.model, choices=choices, usage=usage
        )

    def _build_phrase(self, located: LocatedPhrase) -> PhraseReply:
        return build_phrase_reply(located.phrase, located.picture_index, self.mask_format or "rle")

    def _build_usage(self, event: AnswerFinished) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=event.num_tokens,
            total_tokens=self.prompt_tokens + event.num_tokens,
        )
