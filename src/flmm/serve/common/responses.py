"""Responses that cancel their job when the client disconnects."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flmm.errors import InputError
from flmm.serve.errors import CLIENT_CLOSED_REQUEST, INTERNAL_ERROR, APIError
from flmm.serve.workers.events import JobEvent, JobFailed, PhraseFound
from flmm.serve.workers.running_job import FinishedEvent, RunningJob

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
    job: RunningJob,
    event_type: type[FinishedEvent],
    build_reply: Callable[[FinishedEvent], BaseModel],
) -> Response:
    """Return the whole answer as one JSON response."""
    try:
        event = await run_while_connected(request.receive, job.wait_for(event_type), job.cancel)
    except ClientDisconnected:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    content = await job.run_in_thread(lambda: build_reply(event).model_dump_json())
    return Response(content, media_type="application/json")


class EventStreamResponse(Response):
    """Server-sent events for the events of a job, as OpenAI's clients read them.

    Args:
        job: whose events are sent.
        first_chunk: sent at once.
        build_chunks: returns what is sent for an event.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        job: RunningJob,
        first_chunk: BaseModel,
        build_chunks: Callable[[JobEvent], list[BaseModel]],
    ) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._job = job
        self._first_chunk = first_chunk
        self._build_chunks = build_chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}

        async def respond() -> None:
            await send(start)
            async for data in self._event_data():
                body = f"data: {data}\n\n".encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await run_while_connected(receive, respond(), self._job.cancel)
        except ClientDisconnected:
            return

    async def _event_data(self) -> AsyncIterator[str]:
        yield self._first_chunk.model_dump_json()
        async for event in self._job.events():
            if isinstance(event, JobFailed):
                yield json.dumps(_to_api_error(event.error).to_dict())
                return
            serialize = partial(self._serialize, event)
            has_masks = isinstance(event, PhraseFound)
            for data in await self._job.run_in_thread(serialize) if has_masks else serialize():
                yield data
        yield "[DONE]"

    def _serialize(self, event: JobEvent) -> list[str]:
        return [chunk.model_dump_json() for chunk in self._build_chunks(event)]


def _to_api_error(error: Exception) -> APIError:
    if isinstance(error, InputError):
        return APIError.from_input_error(error)
    _log.error("an answer failed", exc_info=error)
    return INTERNAL_ERROR
