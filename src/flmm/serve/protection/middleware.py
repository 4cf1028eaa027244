"""What every request meets first: who may ask, from where, and how much at most."""

import asyncio
import hmac
from collections.abc import Callable
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flmm.serve.errors import Problem
from flmm.serve.settings import ServerSettings

OPEN_PATHS = frozenset({"/healthz", "/"})
OPEN_FOLDER = "/page/"
"""Asked without a key, as all below the folder: they say and do nothing that needs one."""

_HEADERS = {
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
_TOO_SLOW = 408
_DRAIN_SECONDS = 5.0
_DRAIN_BODIES = 2
"""How many times the largest body is read and thrown away, so that a client hears why."""


class Protection:
    """The outermost layer of the application.

    Args:
        app: what is protected.
        settings: the server's.
        seen: is told of each response's path and status.
    """

    def __init__(
        self, app: ASGIApp, settings: ServerSettings, seen: Callable[[str, int], None]
    ) -> None:
        self._app = app
        self._key = None if settings.api_key is None else settings.api_key.encode()
        self._is_local = is_loopback(settings.host)
        self._most = settings.limits.body_bytes
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope["path"], receive, send, self._most, self._seen)
        try:
            self._check(scope)
        except Problem as problem:
            await problem.response()(scope, exchange.receive, exchange.send)
            return
        await self._app(scope, exchange.receive, exchange.send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        # A page elsewhere can point a name of its own at this machine, and so read our answers.
        if self._is_local and not is_loopback(_without_port(host)):
            raise Problem(
                403, "host_not_allowed", f"this server answers on localhost only, not as {host!r}"
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Problem(403, "origin_not_allowed", f"pages of {origin!r} may not ask this server")
        path = scope["path"]
        is_open = path in OPEN_PATHS or path.startswith(OPEN_FOLDER)
        if self._key is not None and not is_open:
            given = headers.get("authorization", "").removeprefix("Bearer ").encode()
            if not hmac.compare_digest(given, self._key):
                raise Problem(
                    401,
                    "invalid_api_key",
                    "the API key is missing or wrong; send Authorization: Bearer KEY",
                    headers={"www-authenticate": "Bearer"},
                )
        length = headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > 18 or int(length) > self._most):
            raise too_large(self._most)


class _Exchange:
    """One request and its response."""

    def __init__(
        self,
        path: str,
        receive: Receive,
        send: Send,
        most: int,
        seen: Callable[[str, int], None],
    ) -> None:
        self._path = path
        self._receive = receive
        self._send = send
        self._most = most
        self._seen = seen
        self._got = 0
        self._is_read = False

    async def receive(self) -> Message:
        message = await self._next()
        if self._got > self._most:
            raise too_large(self._most)
        return message

    async def _next(self) -> Message:
        message = await self._receive()
        self._got += len(message.get("body", b""))
        self._is_read |= not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] >= 400 and message["status"] != _TOO_SLOW:
                await self._drain()
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            # uvicorn ends a connection that met a failure of ours, so the client is told.
            if not self._is_read or message["status"] >= 500:
                headers["connection"] = "close"
            self._seen(self._path, message["status"])
        await self._send(message)

    async def _drain(self) -> None:
        """Reads what is left of a body that was refused.

        A connection that is closed on unread data takes the response with it.
        """
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._is_read and self._got <= _DRAIN_BODIES * self._most:
                    await self._next()
        except TimeoutError:
            return


def too_large(most: int) -> Problem:
    """The refusal of a body of more bytes."""
    return Problem(
        413, "body_too_large", f"the body is larger than {most} bytes; send smaller pictures"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
