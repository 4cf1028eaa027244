"""The application: all routes around one grounder."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

import flmm
from flmm.errors import InputError
from flmm.serve import errors as problems
from flmm.serve.common.openapi import request_schemas
from flmm.serve.monitoring import _watching
from flmm.serve.openai.requests import ChatRequest
from flmm.serve.openai.routes import chat_routes
from flmm.serve.page.routes import page_routes
from flmm.serve.plain.requests import AttendRequest, GroundRequest, SegmentRequest
from flmm.serve.plain.routes import plain_routes
from flmm.serve.protection.middleware import Protection
from flmm.serve.service import Service
from flmm.serve.settings import ServerSettings

if TYPE_CHECKING:
    from flmm.grounding.grounder import Grounder


def create_app(grounder: "Grounder", settings: ServerSettings) -> ASGIApp:
    """The whole server as an ASGI application.

    The grounder belongs to it from now on, until the application's lifespan ends.
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
        # The pages that FastAPI has for these load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers={
            problems.Problem: problems.answer_problem,
            InputError: problems.answer_input_error,
            HTTPException: problems.answer_http_exception,
            ClientDisconnect: problems.answer_nobody,
            Exception: problems.answer_failure,
        },
    )
    app.include_router(chat_routes(service))
    app.include_router(plain_routes(service))
    app.include_router(_watching(service))
    app.include_router(page_routes())
    _describe(app)
    paths = frozenset(app.openapi()["paths"])

    def seen(path: str, status: int) -> None:
        # Paths that strangers make up shall not fill the memory.
        service.metrics.responded(path if path in paths else "other", status)

    return Protection(app, settings, seen)


def _describe(app: FastAPI) -> None:
    """Adds what FastAPI cannot see, since bodies are read by us."""
    described = app.openapi()
    schemas = request_schemas([ChatRequest, GroundRequest, SegmentRequest, AttendRequest])
    described.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
    described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    described["security"] = [{"key": []}, {}]
