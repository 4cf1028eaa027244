"""The middleware that checks every request's host, origin, API key and body size."""

import asyncio
import hmac
from collections.abc import Callable
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flmm.serve.errors import APIError
from flmm.serve.settings import ServerSettings

PUBLIC_PATHS = frozenset({"/health", "/healthz", "/"})
PUBLIC_PREFIX = "/page/"
"""With ``PUBLIC_PATHS``: served without a key, since they reveal nothing."""

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
_REQUEST_TIMEOUT = 408
_DRAIN_SECONDS = 5.0
_MAX_DRAIN_BODIES = 2
"""How many times the largest allowed body is read of a refused one: see ``_drain``."""


class ProtectionMiddleware:
    """The outermost layer of the application.

    Args:
        app: what is protected.
        settings: the server's.
        on_response: called with each response's path and status.
        origin_advice: what a page that may not ask is told.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        on_response: Callable[[str, int], None],
        origin_advice: str,
    ) -> None:
        self._origin_advice = origin_advice
        self._app = app
        self._key = None if settings.api_key is None else settings.api_key.encode()
        self._is_local = is_loopback(settings.host)
        self._max_body_bytes = settings.limits.body_bytes
        self._on_response = on_response
        self._allowed_origins = frozenset(settings.allowed_origins)
        # Answers preflights, which browsers send without the key, and marks all other responses,
        # refusals too, so that the page may read them.
        self._for_allowed_origins = CORSMiddleware(
            self._respond, self._allowed_origins, allow_methods=["GET", "POST"], allow_headers="*"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        guard = _RequestGuard(scope["path"], receive, send, self._max_body_bytes, self._on_response)
        is_allowed_origin = Headers(scope=scope).get("origin") in self._allowed_origins
        respond = self._for_allowed_origins if is_allowed_origin else self._respond
        await respond(scope, guard.receive, guard.send)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
        except APIError as error:
            await error.to_response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raise APIError where host, origin, key or content-length is refused."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        # DNS rebinding: a foreign page could resolve its own host to this machine and read answers.
        if self._is_local and not is_loopback(_without_port(host)):
            raise APIError(
                403, "host_not_allowed", f"this server answers on localhost only, not as {host!r}"
            )
        origin = headers.get("origin")
        is_foreign = origin is not None and origin.partition("://")[2] != host
        if is_foreign and origin not in self._allowed_origins:
            raise APIError(
                403,
                "origin_not_allowed",
                f"pages of {origin!r} may not ask this server; {self._origin_advice}",
            )
        path = scope["path"]
        is_public = path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIX)
        if self._key is not None and not is_public:
            given_key = headers.get("authorization", "").removeprefix("Bearer ").encode()
            if not hmac.compare_digest(given_key, self._key):
                raise APIError(
                    401,
                    "invalid_api_key",
                    "the API key is missing or wrong; send Authorization: Bearer KEY",
                    headers={"www-authenticate": "Bearer"},
                )
        length = headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > 18 or int(length) > self._max_body_bytes):
            raise body_too_large_error(self._max_body_bytes)


class _RequestGuard:
    """One request and its response: limits the body, and sets the response's headers."""

    def __init__(
        self,
        path: str,
        receive: Receive,
        send: Send,
        max_body_bytes: int,
        on_response: Callable[[str, int], None],
    ) -> None:
        self._path = path
        self._receive = receive
        self._send = send
        self._max_body_bytes = max_body_bytes
        self._on_response = on_response
        self._received_bytes = 0
        self._is_body_complete = False

    async def receive(self) -> Message:
        message = await self._receive_message()
        if self._received_bytes > self._max_body_bytes:
            raise body_too_large_error(self._max_body_bytes)
        return message

    async def _receive_message(self) -> Message:
        message = await self._receive()
        self._received_bytes += len(message.get("body", b""))
        self._is_body_complete |= not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] >= 400 and message["status"] != _REQUEST_TIMEOUT:
                await self._drain()
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            # uvicorn closes the connection after a server error; the header tells the client.
            if not self._is_body_complete or message["status"] >= 500:
                headers["connection"] = "close"
            self._on_response(self._path, message["status"])
        await self._send(message)

    async def _drain(self) -> None:
        """Read what is left of a refused body, up to limits of bytes and time.

        If a connection is closed with unread data, the client may not get the response.
        """
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while (
                    not self._is_body_complete
                    and self._received_bytes <= _MAX_DRAIN_BODIES * self._max_body_bytes
                ):
                    await self._receive_message()
        except TimeoutError:
            return


def body_too_large_error(max_bytes: int) -> APIError:
    """Return the error for a body of more bytes."""
    return APIError(
        413, "body_too_large", f"the body is larger than {max_bytes} bytes; send smaller pictures"
    )


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches that host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
