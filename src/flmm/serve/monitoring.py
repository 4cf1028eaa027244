"""GET /health, GET /healthz and GET /metrics."""

from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Field

from flmm.serve.common.openapi import ERROR_RESPONSES
from flmm.serve.common.response_models import ReplyModel
from flmm.serve.service import Service


class Health(ReplyModel):
    status: Literal["ok", "ending"]
    model: str
    lmm: str
    served: int = Field(description="Requests that are served or wait.")
    queue: int = Field(description="The most requests that may be served or wait.")


def create_monitoring_router(service: Service) -> APIRouter:
    """Return the routes for health and metrics."""
    router = APIRouter(tags=["watching"])

    @router.get("/health")
    @router.get("/healthz")
    async def health() -> Health:
        """Report whether the server accepts requests."""
        queue = service.queue
        return Health(
            status="ending" if queue.is_closing else "ok",
            model=service.pipeline.model_name,
            lmm=service.pipeline.lmm_name,
            served=queue.num_admitted,
            queue=queue.capacity,
        )

    @router.get("/metrics", response_class=Response, responses=ERROR_RESPONSES)
    async def metrics() -> Response:
        """Return the server's metrics in Prometheus' text format."""
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return router
