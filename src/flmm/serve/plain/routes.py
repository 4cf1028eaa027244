"""Plain routes, for clients that know nothing of OpenAI's: JSON or multipart."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from fastapi import APIRouter, Request
from PIL import Image
from pydantic import JsonValue
from starlette.responses import Response

from flmm.lmm.prompt import Message
from flmm.serve.common.conversation import Conversation
from flmm.serve.common.mask_formats import build_phrase_reply
from flmm.serve.common.openapi import ERROR_RESPONSES
from flmm.serve.common.responses import respond_when_finished
from flmm.serve.plain.examples import ATTEND_BODY, GROUND_BODY, SEGMENT_BODY
from flmm.serve.plain.map_formats import build_attention_reply
from flmm.serve.plain.replies import AnswerReply, AttentionReply
from flmm.serve.plain.requests import (
    AttendRequest,
    GroundRequest,
    PictureRequest,
    SegmentRequest,
)
from flmm.serve.protection.picture_reader import guess_media_type
from flmm.serve.protection.request_bodies import (
    parse_media_type,
    read_json,
    read_multipart,
    validate,
)
from flmm.serve.service import Service
from flmm.serve.workers.attend_job import AttendInputs
from flmm.serve.workers.chat_job import ChatInputs
from flmm.serve.workers.events import AnswerFinished, AttendFinished
from flmm.serve.workers.job import Slot
from flmm.serve.workers.running_job import RunningJob
from flmm.serve.workers.segment_job import SegmentInputs
from flmm.stopwatch import Stopwatch
from flmm.types import Size
from flmm.user_input import check_text

Body = TypeVar("Body", bound=PictureRequest)
Inputs = TypeVar("Inputs")


def create_plain_router(service: Service) -> APIRouter:
    """The routes, for one service."""
    router = APIRouter(tags=["plain"])

    @router.post(
        "/v1/ground",
        response_model=AnswerReply,
        openapi_extra=GROUND_BODY,
        responses=ERROR_RESPONSES,
    )
    async def ground(request: Request) -> Response:
        """Ask about a picture and see where the answer's words are in it."""

        def prepare(body: GroundRequest, picture: Image.Image) -> ChatInputs:
            message = Message("user", check_text("question", body.question), (picture,))
            return service.prepare_chat(Conversation((), message), body, body.grounding, False)

        begun = await _submit_request(request, service, GroundRequest, prepare, service.submit_chat)
        return await respond_when_finished(
            request, begun.job, AnswerFinished, partial(_build_answer_reply, service, begun)
        )

    @router.post(
        "/v1/segment",
        response_model=AnswerReply,
        openapi_extra=SEGMENT_BODY,
        responses=ERROR_RESPONSES,
    )
    async def segment(request: Request) -> Response:
        """Find what each phrase refers to in a picture."""

        def prepare(body: SegmentRequest, picture: Image.Image) -> SegmentInputs:
            return service.prepare_segment(picture, body.phrases, body.refine, body.method)

        begun = await _submit_request(
            request, service, SegmentRequest, prepare, service.submit_segment
        )
        return await respond_when_finished(
            request, begun.job, AnswerFinished, partial(_build_answer_reply, service, begun)
        )

    @router.post(
        "/v1/attend",
        response_model=AttentionReply,
        openapi_extra=ATTEND_BODY,
        responses=ERROR_RESPONSES,
    )
    async def attend(request: Request) -> Response:
        """See where in the picture the model looks with each word of its answer."""

        def prepare(body: AttendRequest, picture: Image.Image) -> AttendInputs:
            question, words, answer = body.question, body.words, body.answer
            return service.prepare_attend(picture, question, words, answer, body.max_tokens)

        begun = await _submit_request(
            request, service, AttendRequest, prepare, service.submit_attend
        )
        reply = partial(build_attention_reply, begun.body)
        return await respond_when_finished(request, begun.job, AttendFinished, reply)

    return router


@dataclass(frozen=True)
class _SubmittedRequest(Generic[Body]):
    """A request that the model has or waits for."""

    body: Body
    picture_size: Size
    """Of the picture."""
    job: RunningJob


async def _submit_request(
    request: Request,
    service: Service,
    model: type[Body],
    prepare_inputs: Callable[[Body, Image.Image], Inputs],
    submit: Callable[[Inputs, Slot, Stopwatch], RunningJob],
) -> _SubmittedRequest[Body]:
    """Reads a request, decodes its picture and puts what ``ready`` makes of both in the queue."""
    with service.admit() as slot:
        sent = await _read_request(request, service, model)
        watch = Stopwatch()

        def prepare() -> tuple[Inputs, Size]:
            with watch.stage("picture"):
                picture = sent.read_picture(service)
                return prepare_inputs(sent.body, picture), (picture.height, picture.width)

        made, size = await service.run_in_thread(prepare)
        return _SubmittedRequest(sent.body, size, submit(made, slot, watch))


@dataclass(frozen=True)
class _ReceivedRequest(Generic[Body]):
    """A request, with its picture's file where that came apart."""

    body: Body
    file: tuple[str, bytes] | None = None
    """Media type and content."""

    def read_picture(self, service: Service) -> Image.Image:
        """Decodes it."""
        if self.file is None:
            return service.picture_reader.read_url(self.body.image, "image")
        kind, content = self.file
        return service.picture_reader.read_bytes(content, kind, "image")


async def _read_request(
    request: Request, service: Service, model: type[Body]
) -> "_ReceivedRequest[Body]":
    if parse_media_type(request.headers.get("content-type")) != "multipart/form-data":
        return _ReceivedRequest(await read_json(request, model, service.limits))
    fields, file = await read_multipart(request, service.limits)
    content = await file.read()
    kind = parse_media_type(file.content_type)
    # curl and others that do not know a file's type say so in these words.
    if kind in ("", "application/octet-stream"):
        kind = guess_media_type(content)
    for name in ("phrases", "words", "stop"):
        if isinstance(fields.get(name), str):
            fields[name] = [fields[name]]
    given: dict[str, JsonValue] = {**fields, "image": "multipart"}
    return _ReceivedRequest(validate(given, model, strict=False), (kind, content))


def _build_answer_reply(
    service: Service,
    submitted: _SubmittedRequest[GroundRequest] | _SubmittedRequest[SegmentRequest],
    end: AnswerFinished,
) -> AnswerReply:
    return AnswerReply(
        text=end.text,
        model=service.pipeline.head_name,
        lmm=service.pipeline.lmm_name,
        size=submitted.picture_size,
        phrases=[
            build_phrase_reply(located.phrase, located.picture_index, submitted.body.mask_format)
            for located in end.phrases
        ],
        timings={stage: round(seconds, 4) for stage, seconds in end.timings.items()},
    )
