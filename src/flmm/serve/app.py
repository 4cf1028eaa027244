"""The ASGI application: all routes, around one grounder."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

import flmm
from flmm.errors import InputError
from flmm.serve.common.openapi import build_request_schemas
from flmm.serve.errors import (
    APIError,
    handle_api_error,
    handle_client_disconnect,
    handle_http_exception,
    handle_input_error,
    handle_unexpected_error,
)
from flmm.serve.monitoring import create_monitoring_router
from flmm.serve.openai.request_models import ChatRequest
from flmm.serve.openai.responses.request_models import ResponsesRequest
from flmm.serve.openai.responses.routes import create_responses_router
from flmm.serve.openai.routes import create_openai_router
from flmm.serve.page.routes import create_page_router
from flmm.serve.plain.request_models import AttendRequest, GroundRequest, SegmentRequest
from flmm.serve.plain.routes import create_plain_router
from flmm.serve.protection.middleware import ProtectionMiddleware
from flmm.serve.service import Service
from flmm.serve.settings import ServerSettings

if TYPE_CHECKING:
    from flmm.grounding.grounder import Grounder


def create_app(grounder: "Grounder", settings: ServerSettings) -> ASGIApp:
    """Return the whole server as an ASGI application.

    Until the application's lifespan ends, nobody else may use the grounder.
    """
    service = Service(grounder, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="flmm",
        version=flmm.__version__,
        summary="Asks a multimodal model about pictures, and shows where its words are in them.",
        # FastAPI's documentation pages load scripts from other hosts.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers={
            APIError: handle_api_error,
            InputError: handle_input_error,
            HTTPException: handle_http_exception,
            ClientDisconnect: handle_client_disconnect,
            Exception: handle_unexpected_error,
        },
    )
    app.include_router(create_openai_router(service))
    app.include_router(create_responses_router(service))
    app.include_router(create_plain_router(service))
    app.include_router(create_monitoring_router(service))
    app.include_router(create_page_router(service.pipeline, service.limits))
    _add_to_openapi(app)
    paths = frozenset(app.openapi()["paths"])

    def count_response(path: str, status: int) -> None:
        # Unknown paths share one label, so that clients cannot fill the memory with labels.
        service.metrics.count_response(path if path in paths else "other", status)

    return ProtectionMiddleware(
        app, settings, count_response, "flmm serve --allow-origin lets them"
    )


def _add_to_openapi(app: FastAPI) -> None:
    """Add schemas and API keys: FastAPI does not see them, since the routes parse bodies."""
    description = app.openapi()
    schemas = build_request_schemas(
        [ChatRequest, ResponsesRequest, GroundRequest, SegmentRequest, AttendRequest]
    )
    description.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
    description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    description["security"] = [{"key": []}, {}]
