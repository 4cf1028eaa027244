"""POST /v1/responses, for OpenAI's clients."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from flmm.serve.common.openapi import (
    ERROR_RESPONSES,
    EXAMPLE_PICTURE,
    EXAMPLE_QUESTION,
    describe_body,
)
from flmm.serve.common.responses import EventStreamResponse, respond_when_finished
from flmm.serve.openai.responses.replies import ResponsesReplies
from flmm.serve.openai.responses.request_models import ResponsesRequest
from flmm.serve.openai.responses.response_models import ResponseReply
from flmm.serve.openai.submission import Question, check_model, submit_question
from flmm.serve.protection.request_bodies import read_json
from flmm.serve.service import Service
from flmm.serve.workers.events import AnswerFinished

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
        with service.admit() as slot:
            body = await read_json(request, ResponsesRequest, service.limits, service.unused_fields)
            check_model(service, body.model)
            stream = bool(body.stream)
            question = Question(
                body.messages,
                "input",
                body,
                body.grounding,
                stream,
                instructions=body.instructions or "",
            )
            submitted = await submit_question(service, slot, question)
        replies = ResponsesReplies(body, submitted.prompt_length)
        if stream:
            return EventStreamResponse(submitted.jobs, replies)
        return await respond_when_finished(
            request, submitted.jobs, AnswerFinished, replies.build_response
        )

    return router
