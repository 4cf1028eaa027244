"""Settings of a server, and its limits on requests."""

import re
from dataclasses import dataclass, field

from flmm.errors import InputError

_ORIGIN = re.compile(r"https?://(\[[\da-fA-F:]+\]|[^/\s*@:\[\]]+)(:\d{1,5})?")

_DOMAIN = re.compile(r"[\w.-]+(:\d{1,5})?|[\da-fA-F:.]+")


@dataclass(frozen=True)
class Limits:
    """Limits on one request; a request that exceeds one gets an error that names it."""

    body_bytes: int = 32 * 2**20
    body_seconds: float = 30.0
    """For a request's body to arrive."""
    pixels: int = 25_000_000
    """Of one picture; read from its header, before any of it is decoded."""
    pictures: int = 8
    """Of a whole conversation."""
    prompt_tokens: int = 32_768
    """Of the prompt with its pictures; never more than the LMM can take."""
    answer_tokens: int = 1024
    phrases: int = 64
    """Of one answer or request."""
    json_depth: int = 32
    json_values: int = 100_000


@dataclass(frozen=True)
class ServerSettings:
    """How a server is run.

    Raises:
        InputError: a domain of media or an allowed origin is none.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    """0 for any free port."""
    api_key: str | None = field(default=None, repr=False)
    """Required from every request except for the page and for health; None requires nothing."""
    queue_capacity: int = 64
    """The most requests that are served or wait; one more is refused with status 429."""
    max_batch_size: int = 16
    """The most requests in a batch."""
    media_domains: tuple[str, ...] = ()
    """Hosts ("example.org", "example.org:8443") that pictures may be fetched from."""
    allowed_origins: tuple[str, ...] = ()
    """Origins ("http://localhost:3000") whose pages may ask, beside the server's own."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for domain in self.media_domains:
            if _DOMAIN.fullmatch(domain) is None:
                raise InputError(
                    f"the domain {domain!r} is none; give a host without scheme and path, as in"
                    " example.org or example.org:8443"
                )
        for origin in self.allowed_origins:
            if _ORIGIN.fullmatch(origin) is None:
                raise InputError(
                    f"the origin {origin!r} is none; give scheme, host and port, as in"
                    " http://localhost:3000"
                )
