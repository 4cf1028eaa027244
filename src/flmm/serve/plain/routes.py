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
from flmm.serve.common.mask_formats import phrase_reply
from flmm.serve.common.openapi import REFUSALS
from flmm.serve.common.responses import finished
from flmm.serve.plain.examples import ATTEND, GROUND, SEGMENT
from flmm.serve.plain.map_formats import attention_reply
from flmm.serve.plain.replies import AnswerReply, AttentionReply
from flmm.serve.plain.requests import (
    AttendRequest,
    GroundRequest,
    PictureRequest,
    SegmentRequest,
)
from flmm.serve.protection.picture_reader import _sniffed
from flmm.serve.protection.request_bodies import checked, media_type, read_form, read_json
from flmm.serve.service import Service
from flmm.serve.workers.attend_job import Look
from flmm.serve.workers.chat_job import Question
from flmm.serve.workers.events import Attended, Finished
from flmm.serve.workers.job import Slot
from flmm.serve.workers.running_job import Running
from flmm.serve.workers.segment_job import Wanted
from flmm.stopwatch import Stopwatch
from flmm.types import Size
from flmm.user_input import check_text

Asked = TypeVar("Asked", bound=PictureRequest)
Made = TypeVar("Made")


def plain_routes(service: Service) -> APIRouter:
    """The routes, for one service."""
    router = APIRouter(tags=["plain"])

    @router.post(
        "/v1/ground",
        response_model=AnswerReply,
        openapi_extra=GROUND,
        responses=REFUSALS,
    )
    async def ground(request: Request) -> Response:
        """Ask about a picture and see where the answer's words are in it."""

        def asked(body: GroundRequest, picture: Image.Image) -> Question:
            message = Message("user", check_text("question", body.question), (picture,))
            return service.question(Conversation((), message), body, body.grounding, False)

        begun = await _begin(request, service, GroundRequest, asked, service.speak)
        return await finished(request, begun.running, Finished, partial(_answer, service, begun))

    @router.post(
        "/v1/segment",
        response_model=AnswerReply,
        openapi_extra=SEGMENT,
        responses=REFUSALS,
    )
    async def segment(request: Request) -> Response:
        """Find what each phrase refers to in a picture."""

        def asked(body: SegmentRequest, picture: Image.Image) -> Wanted:
            return service.wanted(picture, body.phrases, body.refine, body.method)

        begun = await _begin(request, service, SegmentRequest, asked, service.segment)
        return await finished(request, begun.running, Finished, partial(_answer, service, begun))

    @router.post(
        "/v1/attend",
        response_model=AttentionReply,
        openapi_extra=ATTEND,
        responses=REFUSALS,
    )
    async def attend(request: Request) -> Response:
        """See where in the picture the model looks with each word of its answer."""

        def asked(body: AttendRequest, picture: Image.Image) -> Look:
            question, words, answer = body.question, body.words, body.answer
            return service.look(picture, question, words, answer, body.max_tokens)

        begun = await _begin(request, service, AttendRequest, asked, service.attend)
        reply = partial(attention_reply, begun.body)
        return await finished(request, begun.running, Attended, reply)

    return router


@dataclass(frozen=True)
class _Begun(Generic[Asked]):
    """A request that the model has or waits for."""

    body: Asked
    size: Size
    """Of the picture."""
    running: Running


async def _begin(
    request: Request,
    service: Service,
    kind: type[Asked],
    ready: Callable[[Asked, Image.Image], Made],
    start: Callable[[Made, Slot, Stopwatch], Running],
) -> _Begun[Asked]:
    """Reads a request, decodes its picture and puts what ``ready`` makes of both in the queue."""
    with service.admitted() as slot:
        sent = await _read(request, service, kind)
        watch = Stopwatch()

        def prepare() -> tuple[Made, Size]:
            with watch.stage("picture"):
                picture = sent.picture(service)
                return ready(sent.body, picture), (picture.height, picture.width)

        made, size = await service.made_ready(prepare)
        return _Begun(sent.body, size, start(made, slot, watch))


@dataclass(frozen=True)
class _Sent(Generic[Asked]):
    """A request, with its picture's file where that came apart."""

    body: Asked
    file: tuple[str, bytes] | None = None
    """Media type and content."""

    def picture(self, service: Service) -> Image.Image:
        """Decodes it."""
        if self.file is None:
            return service.pictures.from_url(self.body.image, "image")
        kind, content = self.file
        return service.pictures.from_bytes(content, kind, "image")


async def _read(request: Request, service: Service, model: type[Asked]) -> "_Sent[Asked]":
    if media_type(request.headers.get("content-type")) != "multipart/form-data":
        return _Sent(await read_json(request, model, service.limits))
    fields, file = await read_form(request, service.limits)
    content = await file.read()
    kind = media_type(file.content_type)
    # curl and others that do not know a file's type say so in these words.
    if kind in ("", "application/octet-stream"):
        kind = _sniffed(content)
    for name in ("phrases", "words", "stop"):
        if isinstance(fields.get(name), str):
            fields[name] = [fields[name]]
    given: dict[str, JsonValue] = {**fields, "image": "multipart"}
    return _Sent(checked(given, model, strict=False), (kind, content))


def _answer(
    service: Service, begun: _Begun[GroundRequest] | _Begun[SegmentRequest], end: Finished
) -> AnswerReply:
    return AnswerReply(
        text=end.text,
        model=service.pipeline.model,
        lmm=service.pipeline.lmm,
        size=begun.size,
        phrases=[
            phrase_reply(located.phrase, located.picture, begun.body.mask_format)
            for located in end.phrases
        ],
        timings={stage: round(seconds, 4) for stage, seconds in end.timings.items()},
    )
