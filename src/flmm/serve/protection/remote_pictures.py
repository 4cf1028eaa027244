"""Download of pictures from allowed hosts, at public addresses and without redirects."""

import http.client
import socket
import ssl
import time
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from urllib.parse import SplitResult, urlsplit

from flmm.serve.errors import APIError
from flmm.serve.protection.request_bodies import parse_media_type

_TIMEOUT_SECONDS = 10.0
"""For the whole download."""
_CHUNK = 2**16
_DEFAULT_PORTS = {"https": 443, "http": 80}


def fetch(
    url: str, allowed_domains: Sequence[str], max_bytes: int, param: str
) -> tuple[str, bytes]:
    """Return a file's media type and content.

    The host's address is looked up once, checked, and then connected to, so that no second look-up
    can return another address. Redirects are not followed.

    Raises:
        APIError: the host is not allowed or its address is private, or the file does not arrive
            in time or is larger than ``max_bytes``.
    """
    parts = _parse_url(url, allowed_domains, param)
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    assert parts.hostname is not None
    address = _resolve_public_address(parts.hostname, port, param)
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    try:
        with (
            socket.create_connection((address, port), timeout=_TIMEOUT_SECONDS) as plain,
            _wrap_tls(plain, parts) as connected,
        ):
            connection = http.client.HTTPConnection(parts.hostname, port)
            connection.sock = connected
            connection.request("GET", path, headers={"accept": "image/*", "user-agent": "flmm"})
            response = connection.getresponse()
            if response.status != 200:
                raise _fetch_error(url, f"it answers {response.status}", param)
            content = _read_content(response, connected, deadline, max_bytes, url, param)
            return parse_media_type(response.headers.get("content-type")), content
    except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
        raise _fetch_error(url, str(error) or type(error).__name__, param) from error


def _parse_url(url: str, allowed_domains: Sequence[str], param: str) -> SplitResult:
    if not allowed_domains:
        raise APIError(
            400,
            "media_not_fetched",
            "pictures are not fetched from other hosts; send a data:image/…;base64,… URL",
            param,
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise APIError(400, "invalid_image_url", f"{url[:200]!r} is no URL", param) from error
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        raise APIError(400, "invalid_image_url", f"{url[:200]!r} is no https or data URL", param)
    host = (
        parts.hostname
        if port in (None, _DEFAULT_PORTS[parts.scheme])
        else f"{parts.hostname}:{port}"
    )
    if host not in {domain.lower() for domain in allowed_domains}:
        raise APIError(
            400,
            "media_domain_not_allowed",
            f"pictures are not fetched from {host[:200]!r}; send a data:image/…;base64,… URL",
            param,
        )
    return parts


def _resolve_public_address(host: str, port: int, param: str) -> str:
    try:
        address_infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise APIError(400, "media_not_found", f"there is no host {host!r}", param) from error
    addresses = [str(info[4][0]) for info in address_infos]
    if not addresses or not all(map(is_public_address, addresses)):
        raise APIError(
            400, "media_address_private", f"the host {host!r} has a private address", param
        )
    return addresses[0]


def is_public_address(address: str) -> bool:
    """Return whether an IP address is reachable from the whole internet."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address):
        embedded = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo or (None, None))[1]
        if embedded is not None:
            return is_public_address(str(embedded))
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def _wrap_tls(connection: socket.socket, parts: SplitResult) -> socket.socket:
    if parts.scheme == "http":
        return connection
    return ssl.create_default_context().wrap_socket(connection, server_hostname=parts.hostname)


def _read_content(
    response: http.client.HTTPResponse,
    connection: socket.socket,
    deadline: float,
    max_bytes: int,
    url: str,
    param: str,
) -> bytes:
    content = bytearray()
    while True:
        seconds_left = deadline - time.monotonic()
        if seconds_left <= 0:
            raise _fetch_error(url, f"it takes more than {_TIMEOUT_SECONDS:g} seconds", param)
        connection.settimeout(seconds_left)
        # read1 returns what has arrived, so that the deadline holds for a slow host too.
        chunk = response.read1(_CHUNK)
        if not chunk:
            return bytes(content)
        content += chunk
        if len(content) > max_bytes:
            raise _fetch_error(url, f"it is larger than {max_bytes} bytes", param)


def _fetch_error(url: str, reason: str, param: str) -> APIError:
    return APIError(
        400, "media_not_fetched", f"{url[:200]!r} could not be fetched: {reason}", param
    )
