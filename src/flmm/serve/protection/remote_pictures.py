"""Pictures from other hosts: only from those that the server's owner named, and only directly."""

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
"""For all of it."""
_CHUNK = 2**16
_DEFAULT_PORTS = {"https": 443, "http": 80}


def fetch(
    url: str, allowed_domains: Sequence[str], max_bytes: int, param: str
) -> tuple[str, bytes]:
    """A file's media type and content.

    The host's address is looked up once, checked, and then connected to, so that no second look-up
    can lead elsewhere. Redirects are not followed.

    Raises:
        Problem: the host is not allowed or its address is private, or it does not give the file
            in time and within its size.
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
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise APIError(400, "media_not_found", f"there is no host {host!r}", param) from error
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(map(is_public_address, addresses)):
        raise APIError(
            400, "media_address_private", f"the host {host!r} has a private address", param
        )
    return addresses[0]


def is_public_address(address: str) -> bool:
    """Whether an IP address is of the open internet."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if inner is not None:
            return is_public_address(str(inner))
    return found.is_global and not found.is_multicast and not found.is_reserved


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
        left = deadline - time.monotonic()
        if left <= 0:
            raise _fetch_error(url, f"it takes more than {_TIMEOUT_SECONDS:g} seconds", param)
        connection.settimeout(left)
        # read1 comes back with what is there, so that a slow host cannot hold us for long.
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
