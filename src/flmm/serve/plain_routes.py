"""Plain routes, for clients that know nothing of OpenAI's: JSON or multipart."""

from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from fastapi import APIRouter, Request
from PIL import Image
from pydantic import JsonValue
from starlette.responses import Response

from flmm.lmm.prompt import Message
from flmm.serve import descriptions
from flmm.serve.attending import Look
from flmm.serve.bodies import checked, media_type, read_form, read_json
from flmm.serve.conversation import Conversation
from flmm.serve.events import Attended, Finished
from flmm.serve.maps import attention_reply
from flmm.serve.masks import phrase_reply
from flmm.serve.media import KINDS
from flmm.serve.replies import AnswerReply, AttentionReply
from flmm.serve.requests import (
    AttendRequest,
    GroundRequest,
    MaskRequest,
    PictureRequest,
    SegmentRequest,
)
from flmm.serve.segmenting import Wanted
from flmm.serve.service import Service
from flmm.serve.speaking import Question
from flmm.serve.waiting import finished
from flmm.stopwatch import Stopwatch
from flmm.user_input import check_text

Asked = TypeVar("Asked", bound=PictureRequest)


def plain_routes(service: Service) -> APIRouter:
    """The routes, for one service."""
    router = APIRouter(tags=["plain"])

    @router.post(
        "/v1/ground",
        response_model=AnswerReply,
        openapi_extra=descriptions.GROUND,
        responses=descriptions.REFUSALS,
    )
    async def ground(request: Request) -> Response:
        """Ask about a picture and see where the answer's words are in it."""
        with service.admitted() as slot:
            sent = await _read(request, service, GroundRequest)
            body, watch = sent.body, Stopwatch()

            def prepare() -> tuple[Question, Image.Image]:
                with watch.stage("picture"):
                    picture = sent.picture(service)
                    asked = Conversation(
                        (), Message("user", check_text("question", body.question), (picture,))
                    )
                    return service.question(asked, body, body.grounding, False), picture

            question, picture = await service.made_ready(prepare)
            running = service.speak(question, slot, watch)
        return await finished(request, running, Finished, partial(_answer, service, body, picture))

    @router.post(
        "/v1/segment",
        response_model=AnswerReply,
        openapi_extra=descriptions.SEGMENT,
        responses=descriptions.REFUSALS,
    )
    async def segment(request: Request) -> Response:
        """Find what each phrase refers to in a picture."""
        with service.admitted() as slot:
            sent = await _read(request, service, SegmentRequest)
            body, watch = sent.body, Stopwatch()

            def prepare() -> Wanted:
                with watch.stage("picture"):
                    return service.wanted(sent.picture(service), body)

            wanted = await service.made_ready(prepare)
            running = service.segment(wanted, slot, watch)
        return await finished(
            request, running, Finished, partial(_answer, service, body, wanted.picture)
        )

    @router.post(
        "/v1/attend",
        response_model=AttentionReply,
        openapi_extra=descriptions.ATTEND,
        responses=descriptions.REFUSALS,
    )
    async def attend(request: Request) -> Response:
        """See where in the picture the model looks with each word of its answer."""
        with service.admitted() as slot:
            sent = await _read(request, service, AttendRequest)
            body, watch = sent.body, Stopwatch()

            def prepare() -> Look:
                with watch.stage("picture"):
                    return service.look(body, sent.picture(service))

            look = await service.made_ready(prepare)
            running = service.attend(look, slot, watch)
        return await finished(request, running, Attended, partial(attention_reply, body))

    return router


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


def _sniffed(content: bytes) -> str:
    """The media type by a file's first bytes."""
    signs = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    found = [kind for sign, kind in signs.items() if content.startswith(sign)]
    return found[0] if found else next(iter(KINDS))


def _answer(
    service: Service, body: MaskRequest, picture: Image.Image, end: Finished
) -> AnswerReply:
    return AnswerReply(
        text=end.text,
        model=service.pipeline.model,
        lmm=service.pipeline.lmm,
        size=(picture.height, picture.width),
        phrases=[
            phrase_reply(located.phrase, located.picture, body.mask_format)
            for located in end.phrases
        ],
        timings={stage: round(seconds, 4) for stage, seconds in end.timings.items()},
    )
