"""GET /healthz and GET /metrics."""

from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Field

from flmm.serve.common.openapi import REFUSALS
from flmm.serve.common.replies import Reply
from flmm.serve.service import Service


class Health(Reply):
    status: Literal["ok", "ending"]
    model: str
    lmm: str
    served: int = Field(description="Requests that are served or wait.")
    queue: int = Field(description="How many of them there may be.")


def _watching(service: Service) -> APIRouter:
    """How the server is."""
    router = APIRouter(tags=["watching"])

    @router.get("/healthz")
    async def health() -> Health:
        """Whether the server takes requests."""
        queue = service.queue
        return Health(
            status="ending" if queue.is_closing else "ok",
            model=service.pipeline.model,
            lmm=service.pipeline.lmm,
            served=queue.admitted,
            queue=queue.capacity,
        )

    @router.get("/metrics", response_class=Response, responses=REFUSALS)
    async def metrics() -> Response:
        """What happened so far, in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router
