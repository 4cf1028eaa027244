"""The server's metrics, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one server; servers in one process share nothing."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._responses = Counter(
            "flmm_responses", "Responses by path and status.", ("path", "status"), registry=registry
        )
        self.admitted_requests = Gauge(
            "flmm_admitted_requests", "Requests that are served or wait.", registry=registry
        )
        self.waiting_requests = Gauge(
            "flmm_waiting_requests", "Requests that wait for the model.", registry=registry
        )
        self.batch_size = Histogram(
            "flmm_requests_together",
            "Requests that the model answers at once.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.answer_tokens = Counter("flmm_answer_tokens", "Tokens generated.", registry=registry)
        self.phrases = Counter("flmm_phrases", "Phrases grounded.", registry=registry)
        self.first_token_seconds = Histogram(
            "flmm_first_token_seconds",
            "From a request's admission to its first token.",
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self.mask_seconds = Histogram(
            "flmm_mask_seconds",
            "From a phrase's last token to its mask, of streamed answers.",
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self.request_seconds = Histogram(
            "flmm_request_seconds",
            "From a request's admission to the end of its answer.",
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )

    def count_response(self, path: str, status: int) -> None:
        """Count a response, when it begins."""
        self._responses.labels(path, str(status)).inc()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
