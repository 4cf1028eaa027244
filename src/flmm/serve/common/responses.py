"""Waiting for the model only as long as the client waits for us."""

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


class ClientDisconnected(Exception):  # noqa: N818 - it went of its own accord
    """Nobody waits for the response any more."""


async def run_while_connected(
    receive: Receive, work: Coroutine[None, None, Result], cancel: Callable[[], None]
) -> Result:
    """What the work gives; when the client goes first, or the server ends, ``cancel`` is called.

    Raises:
        ClientGone: the client went.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        if not task.done():
            cancel()
        task.cancel()
        gone.cancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def respond_when_finished(
    request: Request,
    job: RunningJob,
    event_type: type[FinishedEvent],
    build_reply: Callable[[FinishedEvent], BaseModel],
) -> Response:
    """The whole answer as one response."""
    try:
        end = await run_while_connected(request.receive, job.wait_for(event_type), job.cancel)
    except ClientDisconnected:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    content = await job.run_in_thread(lambda: build_reply(end).model_dump_json())
    return Response(content, media_type="application/json")


class EventStreamResponse(Response):
    """Server-sent events: one for each of a job's, as OpenAI's clients read them.

    Args:
        running: the job.
        first: sent at once.
        replies: what is sent for an event of the job.
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
            write = partial(self._serialize, event)
            has_masks = isinstance(event, PhraseFound)
            for data in await self._job.run_in_thread(write) if has_masks else write():
                yield data
        yield "[DONE]"

    def _serialize(self, event: JobEvent) -> list[str]:
        return [reply.model_dump_json() for reply in self._build_chunks(event)]


def _to_api_error(error: Exception) -> APIError:
    if isinstance(error, InputError):
        return APIError.from_input_error(error)
    _log.error("an answer failed", exc_info=error)
    return INTERNAL_ERROR
