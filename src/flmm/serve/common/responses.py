"""Responses that cancel their job when the client disconnects."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Protocol, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flmm.errors import InputError
from flmm.serve.common.job_group import JobGroup
from flmm.serve.errors import CLIENT_CLOSED_REQUEST, INTERNAL_ERROR, APIError
from flmm.serve.workers.events import AnswerFinished, JobEvent, JobFailed, PhraseFound
from flmm.serve.workers.running_job import FinishedEvent

Result = TypeVar("Result")
_log = logging.getLogger("flmm.serve")


class ClientDisconnected(Exception):  # noqa: N818 - not an error
    """The client closed the connection before its response was complete."""


async def run_while_connected(
    receive: Receive, work: Coroutine[None, None, Result], cancel: Callable[[], None]
) -> Result:
    """Return what ``work`` returns; call ``cancel`` if the client or the server stops it before.

    Raises:
        ClientDisconnected: the client closed the connection.
    """
    task = asyncio.ensure_future(work)
    disconnected = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        if not task.done():
            cancel()
        task.cancel()
        disconnected.cancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def respond_when_finished(
    request: Request,
    jobs: JobGroup,
    event_type: type[FinishedEvent],
    build_reply: Callable[[Sequence[FinishedEvent]], BaseModel],
) -> Response:
    """Return all jobs' answers as one JSON response."""
    try:
        events = await run_while_connected(request.receive, jobs.wait_for(event_type), jobs.cancel)
    except ClientDisconnected:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    content = await jobs.run_in_thread(lambda: build_reply(events).model_dump_json())
    return Response(content, media_type="application/json")


class EventEncoder(Protocol):
    """Writes the events of a request's jobs as server-sent events, whole ones in each text."""

    def begin(self) -> Sequence[str]:
        """Return what is sent at once."""

    def encode(self, index: int, event: JobEvent) -> Sequence[str]:
        """Return what is sent for an event of a job."""

    def end(self) -> Sequence[str]:
        """Return what is sent after all jobs' last events."""

    def fail(self, error: APIError) -> Sequence[str]:
        """Return what is sent in the place of everything else when a job fails."""


class EventStreamResponse(Response):
    """Server-sent events for the events of a request's jobs, as OpenAI's clients read them."""

    media_type = "text/event-stream"

    def __init__(self, jobs: JobGroup, encoder: EventEncoder) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._jobs = jobs
        self._encoder = encoder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}

        async def respond() -> None:
            await send(start)
            async for text in self._texts():
                body = text.encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await run_while_connected(receive, respond(), self._jobs.cancel)
        except ClientDisconnected:
            return

    async def _texts(self) -> AsyncIterator[str]:
        for text in self._encoder.begin():
            yield text
        async for index, event in self._jobs.events():
            if isinstance(event, JobFailed):
                self._jobs.cancel()
                for text in self._encoder.fail(_to_api_error(event.error)):
                    yield text
                return
            encode = partial(self._encoder.encode, index, event)
            has_masks = isinstance(event, PhraseFound | AnswerFinished)
            for text in await self._jobs.run_in_thread(encode) if has_masks else encode():
                yield text
        for text in self._encoder.end():
            yield text


def format_event(content: str, name: str | None = None) -> str:
    """Return a server-sent event with that content, which is one line."""
    return f"data: {content}\n\n" if name is None else f"event: {name}\ndata: {content}\n\n"


def _to_api_error(error: Exception) -> APIError:
    if isinstance(error, InputError):
        return APIError.from_input_error(error)
    _log.error("an answer failed", exc_info=error)
    return INTERNAL_ERROR
