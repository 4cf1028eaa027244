"""API errors in OpenAI's format, and the handlers that respond with them."""

from collections.abc import Mapping
from typing import TypedDict

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flmm.errors import InputError

UNSUPPORTED_VALUE = "unsupported_value"
"""OpenAI's code for what a model cannot do; also of the validators' ``PydanticCustomError``."""


class APIError(Exception):
    """An error that the client is told of.

    Args:
        status: HTTP status.
        code: one word for programs.
        message: one line for people: what is wrong, the value, the remedy.
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
        """Return the API error for a user's mistake that the library found."""
        return cls(400, "invalid_value", str(error), param)

    def to_response(self) -> JSONResponse:
        """Return the error's JSON response."""
        return JSONResponse(self.to_dict(), self.status, self.headers)

    def to_dict(self) -> "ErrorContent":
        """Return the response's JSON."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, _default_error_type(self.status)),
                "param": self.param,
                "code": self.code,
            }
        }


class ErrorDetail(TypedDict):
    """What OpenAI's error object contains."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorContent(TypedDict):
    """OpenAI's error object."""

    error: ErrorDetail


INTERNAL_ERROR = APIError(500, "internal_error", "flmm failed; the server's log says more")
"""A failure of the server; clients learn no details."""

_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error",
}  # fmt: skip


# nginx's status, which logs and dashboards know: HTTP has none for this.
CLIENT_CLOSED_REQUEST = 499


def _default_error_type(status: int) -> str:
    return "server_error" if status >= 500 else "invalid_request_error"


async def handle_api_error(_: Request, error: Exception) -> JSONResponse:
    """Return the response to an ``APIError``."""
    assert isinstance(error, APIError)
    return error.to_response()


async def handle_input_error(_: Request, error: Exception) -> JSONResponse:
    """Return the response to an ``InputError`` of the library."""
    assert isinstance(error, InputError)
    return APIError.from_input_error(error).to_response()


async def handle_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Return the response where no route matches."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        api_error = APIError(
            404, "not_found", f"there is no {path!r} here; /openapi.json lists all"
        )
    elif error.status_code == 405:
        api_error = APIError(
            405,
            "method_not_allowed",
            f"{path!r} does not take {request.method}; /openapi.json says what it takes",
            headers=error.headers,
        )
    else:
        api_error = APIError(error.status_code, "invalid_request", str(error.detail))
    return api_error.to_response()


async def handle_client_disconnect(_: Request, _error: Exception) -> Response:
    """Return a response for logs only: the client disconnected while it sent its body."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def handle_unexpected_error(_: Request, _error: Exception) -> JSONResponse:
    """Return the response to a failure of the server, which logs the traceback."""
    return INTERNAL_ERROR.to_response()
