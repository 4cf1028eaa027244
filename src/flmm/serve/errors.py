"""Refusals and failures, in the shape in which OpenAI's clients expect them."""

from collections.abc import Mapping
from typing import TypedDict

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flmm.errors import InputError


class APIError(Exception):
    """A request that is refused.

    Args:
        status: HTTP's.
        code: one word for programs.
        message: one line for people: what is wrong, the value, what to do.
        param: the field at fault.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = dict(headers or {})

    @classmethod
    def from_input_error(cls, error: InputError, param: str | None = None) -> "APIError":
        """What the layers below say of a user's mistake."""
        return cls(400, "invalid_value", str(error), param)

    def to_response(self) -> JSONResponse:
        return JSONResponse(self.to_dict(), self.status, self.headers)

    def to_dict(self) -> "ErrorContent":
        """The response's JSON."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, _default_error_type(self.status)),
                "param": self.param,
                "code": self.code,
            }
        }


class ErrorDetail(TypedDict):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorContent(TypedDict):
    """OpenAI's error object."""

    error: ErrorDetail


INTERNAL_ERROR = APIError(500, "internal_error", "flmm failed; the server's log says more")
"""Our own mistake, which no client learns more about."""

_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error",
}  # fmt: skip


# No standard status says so; nginx's is the one that logs and dashboards know.
CLIENT_CLOSED_REQUEST = 499


def _default_error_type(status: int) -> str:
    return "server_error" if status >= 500 else "invalid_request_error"


async def handle_api_error(_: Request, error: Exception) -> JSONResponse:
    """A refusal's response."""
    assert isinstance(error, APIError)
    return error.to_response()


async def handle_input_error(_: Request, error: Exception) -> JSONResponse:
    """The response to a user's mistake that a layer below found."""
    assert isinstance(error, InputError)
    return APIError.from_input_error(error).to_response()


async def handle_http_exception(request: Request, error: Exception) -> JSONResponse:
    """The response where no route fits."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        problem = APIError(404, "not_found", f"there is no {path!r} here; /openapi.json lists all")
    elif error.status_code == 405:
        problem = APIError(
            405,
            "method_not_allowed",
            f"{path!r} does not take {request.method}; /openapi.json says what it takes",
            headers=error.headers,
        )
    else:
        problem = APIError(error.status_code, "invalid_request", str(error.detail))
    return problem.to_response()


async def handle_client_disconnect(_: Request, _error: Exception) -> Response:
    """The response to a client that went away while it was sending its body: it has no reader."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def handle_unexpected_error(_: Request, _error: Exception) -> JSONResponse:
    """The response to our own mistake; the server logs the traceback."""
    return INTERNAL_ERROR.to_response()
