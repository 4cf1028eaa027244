"""POST /v1/chat/completions and GET /v1/models, for OpenAI's clients."""

import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from flmm.serve.common.openapi import (
    ERROR_RESPONSES,
    EXAMPLE_PICTURE,
    EXAMPLE_QUESTION,
    describe_body,
)
from flmm.serve.errors import APIError
from flmm.serve.openai.answering import Question, respond_to_question
from flmm.serve.openai.chat_replies import ChatReplies
from flmm.serve.openai.request_models import ChatRequest
from flmm.serve.openai.response_models import Completion, ModelList, ModelReply
from flmm.serve.service import Service

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
        return await respond_to_question(
            request, service, ChatRequest, _build_question, ChatReplies.from_request
        )

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


def _build_question(body: ChatRequest) -> Question:
    return Question(body.messages, "messages", body, body.grounding, bool(body.stream), body.n or 1)
