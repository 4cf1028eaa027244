"""POST /v1/ground, /v1/segment and /v1/attend, with JSON or multipart bodies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from fastapi import APIRouter, Request
from PIL import Image
from pydantic import JsonValue
from starlette.responses import Response

from flmm.grounding.conversation import Conversation
from flmm.lmm.message import Message
from flmm.serve.common.job_group import JobGroup
from flmm.serve.common.mask_formats import build_phrase_reply
from flmm.serve.common.openapi import ERROR_RESPONSES
from flmm.serve.common.responses import respond_when_finished
from flmm.serve.plain.examples import ATTEND_BODY, GROUND_BODY, SEGMENT_BODY
from flmm.serve.plain.map_formats import build_attention_reply
from flmm.serve.plain.request_models import (
    AttendRequest,
    GroundRequest,
    PictureRequest,
    SegmentRequest,
)
from flmm.serve.plain.response_models import AnswerReply, AttentionReply
from flmm.serve.protection.request_bodies import (
    parse_media_type,
    read_json,
    read_multipart,
    validate,
)
from flmm.serve.service import Service
from flmm.serve.workers.attend_job import AttendInputs
from flmm.serve.workers.chat_inputs import ChatInputs
from flmm.serve.workers.events import AnswerFinished, AttendFinished
from flmm.serve.workers.given_text_job import GivenTextInputs
from flmm.serve.workers.job import Slot
from flmm.serve.workers.running_job import RunningJob
from flmm.stopwatch import Stopwatch
from flmm.types import Size
from flmm.user_input import check_text

Body = TypeVar("Body", bound=PictureRequest)
Inputs = TypeVar("Inputs")


def create_plain_router(service: Service) -> APIRouter:
    """Return the plain routes of a service."""
    router = APIRouter(tags=["plain"])

    @router.post(
        "/v1/ground",
        response_model=AnswerReply,
        openapi_extra=GROUND_BODY,
        responses=ERROR_RESPONSES,
    )
    async def ground(request: Request) -> Response:
        """Answer a question about a picture, with masks of the answer's phrases.

        With `text`, the masks are of that text's phrases, and nothing is generated.
        """

        def prepare(body: GroundRequest, picture: Image.Image) -> ChatInputs | GivenTextInputs:
            if body.text is not None:
                return service.prepare_ground(picture, body.text, body.question, body.grounding)
            message = Message("user", check_text("question", body.question or ""), (picture,))
            return service.prepare_chat(Conversation((), message), body, body.grounding, False)

        def submit(
            inputs: ChatInputs | GivenTextInputs, slot: Slot, stopwatch: Stopwatch
        ) -> RunningJob:
            if isinstance(inputs, ChatInputs):
                return service.submit_chat(inputs, slot, stopwatch)
            return service.submit_given_text(inputs, slot, stopwatch)

        submitted = await _submit_request(request, service, GroundRequest, prepare, submit)
        return await respond_when_finished(
            request,
            submitted.jobs,
            AnswerFinished,
            partial(_build_answer_reply, service, submitted),
        )

    @router.post(
        "/v1/segment",
        response_model=AnswerReply,
        openapi_extra=SEGMENT_BODY,
        responses=ERROR_RESPONSES,
    )
    async def segment(request: Request) -> Response:
        """Segment what each phrase refers to in a picture."""

        def prepare(body: SegmentRequest, picture: Image.Image) -> GivenTextInputs:
            return service.prepare_segment(picture, body.phrases, body)

        submitted = await _submit_request(
            request, service, SegmentRequest, prepare, service.submit_given_text
        )
        return await respond_when_finished(
            request,
            submitted.jobs,
            AnswerFinished,
            partial(_build_answer_reply, service, submitted),
        )

    @router.post(
        "/v1/attend",
        response_model=AttentionReply,
        openapi_extra=ATTEND_BODY,
        responses=ERROR_RESPONSES,
    )
    async def attend(request: Request) -> Response:
        """Show where in the picture the model's attention is with each word of an answer."""

        def prepare(body: AttendRequest, picture: Image.Image) -> AttendInputs:
            question, words, answer = body.question, body.words, body.answer
            return service.prepare_attend(picture, question, words, answer, body.max_tokens)

        submitted = await _submit_request(
            request, service, AttendRequest, prepare, service.submit_attend
        )

        def reply(events: Sequence[AttendFinished]) -> AttentionReply:
            return build_attention_reply(submitted.body, events[0])

        return await respond_when_finished(request, submitted.jobs, AttendFinished, reply)

    return router


@dataclass(frozen=True)
class _SubmittedRequest(Generic[Body]):
    """A request whose job is in the model queue."""

    body: Body
    picture_size: Size
    """(height, width)."""
    jobs: JobGroup
    """One job."""


async def _submit_request(
    request: Request,
    service: Service,
    model: type[Body],
    prepare_inputs: Callable[[Body, Image.Image], Inputs],
    submit: Callable[[Inputs, Slot, Stopwatch], RunningJob],
) -> _SubmittedRequest[Body]:
    """Read a request, decode its picture, and queue what ``prepare_inputs`` returns for both."""
    with service.admit() as slot:
        received = await _read_request(request, service, model)
        stopwatch = Stopwatch()

        def prepare() -> tuple[Inputs, Size]:
            with stopwatch.stage("picture"):
                picture = received.read_picture(service)
                return prepare_inputs(received.body, picture), (picture.height, picture.width)

        inputs, size = await service.run_in_thread(prepare)
        jobs = JobGroup([submit(inputs, slot, stopwatch)])
        return _SubmittedRequest(received.body, size, jobs)


@dataclass(frozen=True)
class _ReceivedRequest(Generic[Body]):
    """A request's body, with the picture's file if it was sent as multipart."""

    body: Body
    file: tuple[str, bytes] | None = None
    """Media type and content."""

    def read_picture(self, service: Service) -> Image.Image:
        """Return the decoded picture."""
        if self.file is None:
            return service.picture_reader.read_url(self.body.image, "image")
        media_type, content = self.file
        return service.picture_reader.read_bytes(content, media_type, "image")


async def _read_request(
    request: Request, service: Service, model: type[Body]
) -> "_ReceivedRequest[Body]":
    if parse_media_type(request.headers.get("content-type")) != "multipart/form-data":
        return _ReceivedRequest(await read_json(request, model, service.limits))
    fields, file = await read_multipart(request, service.limits)
    content = await file.read()
    media_type = parse_media_type(file.content_type)
    for name in ("phrases", "words", "stop"):
        if isinstance(fields.get(name), str):
            fields[name] = [fields[name]]
    values: dict[str, JsonValue] = {**fields, "image": "multipart"}
    return _ReceivedRequest(validate(values, model, strict=False), (media_type, content))


def _build_answer_reply(
    service: Service,
    submitted: _SubmittedRequest[GroundRequest] | _SubmittedRequest[SegmentRequest],
    events: Sequence[AnswerFinished],
) -> AnswerReply:
    event = events[0]
    return AnswerReply(
        text=event.text,
        model=service.pipeline.model_name,
        lmm=service.pipeline.lmm_name,
        size=submitted.picture_size,
        phrases=[
            build_phrase_reply(located.phrase, located.picture_index, submitted.body.mask_format)
            for located in event.phrases
        ],
        timings={stage: round(seconds, 4) for stage, seconds in event.timings.items()},
    )
