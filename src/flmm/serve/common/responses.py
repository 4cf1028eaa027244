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
from flmm.serve.errors import _CLIENT_CLOSED, FAILURE, Problem
from flmm.serve.workers.events import Event, Failed, PhraseFound
from flmm.serve.workers.running_job import End, Running

Value = TypeVar("Value")
_log = logging.getLogger("flmm.serve")


class ClientGone(Exception):  # noqa: N818 - it went of its own accord
    """Nobody waits for the response any more."""


async def while_connected(
    receive: Receive, work: Coroutine[None, None, Value], cancel: Callable[[], None]
) -> Value:
    """What the work gives; when the client goes first, or the server ends, ``cancel`` is called.

    Raises:
        ClientGone: the client went.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        if not task.done():
            cancel()
        task.cancel()
        gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def finished(
    request: Request, running: Running, kind: type[End], reply: Callable[[End], BaseModel]
) -> Response:
    """The whole answer as one response."""
    try:
        end = await while_connected(request.receive, running.finished(kind), running.cancel)
    except ClientGone:
        return Response(status_code=_CLIENT_CLOSED)
    content = await running.written(lambda: reply(end).model_dump_json())
    return Response(content, media_type="application/json")


class EventStream(Response):
    """Server-sent events: one for each of a job's, as OpenAI's clients read them.

    Args:
        running: the job.
        first: sent at once.
        replies: what is sent for an event of the job.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        running: Running,
        first: BaseModel,
        replies: Callable[[Event], list[BaseModel]],
    ) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._running = running
        self._first = first
        self._replies = replies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}

        async def respond() -> None:
            await send(start)
            async for data in self._data():
                body = f"data: {data}\n\n".encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await while_connected(receive, respond(), self._running.cancel)
        except ClientGone:
            return

    async def _data(self) -> AsyncIterator[str]:
        yield self._first.model_dump_json()
        async for event in self._running.events():
            if isinstance(event, Failed):
                yield json.dumps(_problem(event.error).content())
                return
            write = partial(self._written, event)
            has_masks = isinstance(event, PhraseFound)
            for data in await self._running.written(write) if has_masks else write():
                yield data
        yield "[DONE]"

    def _written(self, event: Event) -> list[str]:
        return [reply.model_dump_json() for reply in self._replies(event)]


def _problem(error: Exception) -> Problem:
    if isinstance(error, InputError):
        return Problem.of_input(error)
    _log.error("an answer failed", exc_info=error)
    return FAILURE
