"""Settings of a server, and its limits on requests."""

from dataclasses import dataclass, field


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
    json_depth: int = 16
    json_values: int = 100_000


@dataclass(frozen=True)
class ServerSettings:
    """How a server is run."""

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
    limits: Limits = field(default_factory=Limits)
