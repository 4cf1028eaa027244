"""POST /v1/responses, for OpenAI's clients."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from flmm.serve.common.openapi import (
    ERROR_RESPONSES,
    EXAMPLE_PICTURE,
    EXAMPLE_QUESTION,
    describe_body,
)
from flmm.serve.openai.answering import Question, respond_to_question
from flmm.serve.openai.responses.replies import ResponsesReplies
from flmm.serve.openai.responses.request_models import ResponsesRequest
from flmm.serve.openai.responses.response_models import ResponseReply
from flmm.serve.service import Service

_BODY = describe_body(
    ResponsesRequest,
    {
        "model": "embedded:head",
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": EXAMPLE_PICTURE},
                    {"type": "input_text", "text": EXAMPLE_QUESTION},
                ],
            }
        ],
        "grounding": {"mask_format": "rle"},
        "max_output_tokens": 60,
    },
    multipart=False,
)


def create_responses_router(service: Service) -> APIRouter:
    """Return the route of a service's responses."""
    router = APIRouter(tags=["OpenAI"])

    @router.post(
        "/v1/responses",
        response_model=ResponseReply,
        openapi_extra=_BODY,
        responses=ERROR_RESPONSES,
    )
    async def create_response(request: Request) -> Response:
        """Answer the last message of a conversation about pictures; nothing of it is kept.

        With `grounding`, the message has the answer's phrases and their masks. With `stream`,
        events come while the answer is generated, each phrase in its own as soon as it is complete.
        """
        return await respond_to_question(
            request, service, ResponsesRequest, _build_question, ResponsesReplies
        )

    return router


def _build_question(body: ResponsesRequest) -> Question:
    return Question(
        body.messages,
        "input",
        body,
        body.grounding,
        bool(body.stream),
        instructions=body.instructions or "",
    )
