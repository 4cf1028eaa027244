"""Refusals and failures, in the shape in which OpenAI's clients expect them."""

from collections.abc import Mapping
from typing import TypedDict

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flmm.errors import InputError


class Problem(Exception):  # noqa: N818 - what a client did wrong is no error of ours
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
    def of_input(cls, error: InputError, param: str | None = None) -> "Problem":
        """What the layers below say of a user's mistake."""
        return cls(400, "invalid_value", str(error), param)

    def response(self) -> JSONResponse:
        return JSONResponse(self.content(), self.status, self.headers)

    def content(self) -> "ErrorContent":
        """The response's JSON."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, _type_of(self.status)),
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


FAILURE = Problem(500, "internal_error", "flmm failed; the server's log says more")
"""Our own mistake, which no client learns more about."""

_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    429: "rate_limit_error",
}  # fmt: skip


# No standard status says so; nginx's is the one that logs and dashboards know.
_CLIENT_CLOSED = 499


def _type_of(status: int) -> str:
    return "server_error" if status >= 500 else "invalid_request_error"


async def answer_problem(_: Request, error: Exception) -> JSONResponse:
    """A refusal's response."""
    assert isinstance(error, Problem)
    return error.response()


async def answer_input_error(_: Request, error: Exception) -> JSONResponse:
    """The response to a user's mistake that a layer below found."""
    assert isinstance(error, InputError)
    return Problem.of_input(error).response()


async def answer_http_exception(request: Request, error: Exception) -> JSONResponse:
    """The response where no route fits."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        problem = Problem(404, "not_found", f"there is no {path!r} here; /openapi.json lists all")
    elif error.status_code == 405:
        problem = Problem(
            405,
            "method_not_allowed",
            f"{path!r} does not take {request.method}; /openapi.json says what it takes",
            headers=error.headers,
        )
    else:
        problem = Problem(error.status_code, "invalid_request", str(error.detail))
    return problem.response()


async def answer_nobody(_: Request, _error: Exception) -> Response:
    """The response to a client that went away while it was sending its body: it has no reader."""
    return Response(status_code=_CLIENT_CLOSED)


async def answer_failure(_: Request, _error: Exception) -> JSONResponse:
    """The response to our own mistake; the server logs the traceback."""
    return FAILURE.response()
