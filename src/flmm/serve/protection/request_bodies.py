"""Reading and validation of request bodies."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import TypeVar

import pydantic_core
from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from flmm.errors import shorten
from flmm.serve.errors import UNSUPPORTED_VALUE, APIError
from flmm.serve.settings import Limits

Body = TypeVar("Body", bound=BaseModel)

_UNION_MEMBER_NAMES = ("constrained-str", "function-", "list[", "str")
"""Prefixes of pydantic's names for the members of a union of texts, lists and models."""
_MAX_FORM_FIELDS = 200
"""Of a multipart body."""


def parse_media_type(header: str | None) -> str:
    """Return a Content-Type in lower case and without its parameters."""
    return (header or "").partition(";")[0].strip().lower()


async def read_json(
    request: Request, model: type[Body], limits: Limits, context: object = None
) -> Body:
    """Return the request's JSON as a model.

    ``context`` is given to the model's validators.

    Raises:
        APIError: it is not JSON, does not fit the model, or exceeds a limit.
    """
    media_type = parse_media_type(request.headers.get("content-type"))
    if media_type != "application/json":
        raise APIError(
            415,
            "unsupported_media_type",
            f"the body's type is {media_type!r}; send application/json",
        )
    content = await _read_body(request, limits)
    return validate(parse_json(content, limits), model, context=context)


async def _read_body(request: Request, limits: Limits) -> bytes:
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await request.body()
    except TimeoutError as error:
        raise _body_too_slow_error(limits) from error


def _body_too_slow_error(limits: Limits) -> APIError:
    return APIError(
        408, "body_too_slow", f"the body took more than {limits.body_seconds:g} seconds to arrive"
    )


def parse_json(content: bytes, limits: Limits) -> JsonValue:
    """Parse strict JSON: UTF-8, without NaN and Infinity.

    Raises:
        APIError: it is not that, is nested too deep, or has too many values.
    """
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise APIError(
            400, "invalid_utf8", f"the body is not UTF-8 at byte {error.start}; send UTF-8"
        ) from error
    # Counted before parsing; a data URL contains at most one of these.
    if sum(content.count(sign) for sign in (b",", b"[", b"{")) > limits.json_values:
        raise APIError(
            400, "too_many_values", f"the JSON has more than {limits.json_values} values"
        )
    try:
        value: JsonValue = pydantic_core.from_json(
            content, allow_inf_nan=False, cache_strings=False
        )
    except ValueError as error:
        if "recursion" in str(error):
            raise _json_too_deep_error(limits) from error
        raise APIError(400, "invalid_json", f"the body is not JSON ({error})") from error
    if any(depth > limits.json_depth for depth in _depths(value)):
        raise _json_too_deep_error(limits)
    return value


def _json_too_deep_error(limits: Limits) -> APIError:
    return APIError(
        400, "json_too_deep", f"the JSON is nested more than {limits.json_depth} levels deep"
    )


def _depths(value: JsonValue) -> Iterator[int]:
    stack = [(value, 0)]
    while stack:
        inner, depth = stack.pop()
        yield depth
        if isinstance(inner, dict | list):
            parts = inner.values() if isinstance(inner, dict) else inner
            stack.extend((part, depth + 1) for part in parts)


def validate(value: object, model: type[Body], strict: bool = True, context: object = None) -> Body:
    """Return the value as a model.

    Raises:
        APIError: it does not fit; the message names the field.
    """
    try:
        return model.model_validate(value, strict=strict, context=context)
    except ValidationError as error:
        # Of a union's members, the deepest error is of the member that was meant.
        first = max(error.errors(include_url=False, include_input=False), key=_specificity)
        param = _field_path(first["loc"])
        if first["type"] == "extra_forbidden":
            raise APIError(
                400,
                "unknown_field",
                f"unknown field {param!r}; /openapi.json lists what there is",
                param,
            ) from error
        prefix = f"{param}: " if param else ""
        code = UNSUPPORTED_VALUE if first["type"] == UNSUPPORTED_VALUE else "invalid_value"
        raise APIError(400, code, f"{prefix}{_describe(first)}", param) from error


def _describe(error: ErrorDetails) -> str:
    """Return pydantic's message in one line; of a wrong ``type`` or ``role``, one of our own."""
    context = error.get("ctx", {})
    if error["type"] == "union_tag_invalid":
        tag = shorten(str(context["tag"]))
        field = context["discriminator"].strip("'")
        return f"{field} {tag!r} is not taken; give {context['expected_tags']}"
    return " ".join(error["msg"].removeprefix("Value error, ").split())


def _specificity(error: ErrorDetails) -> tuple[int, bool]:
    return len(error["loc"]), not error["type"].endswith("_type")


def _field_path(location: Sequence[str | int]) -> str | None:
    """Return "messages[0].content" and the like, without pydantic's names of union members."""
    path = ""
    before: str | int = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not path:
            path = part
        elif not isinstance(before, int) and not part.startswith(_UNION_MEMBER_NAMES):
            path += f".{part}"
        before = part
    return path[:200] or None


async def read_multipart(
    request: Request, limits: Limits
) -> tuple[dict[str, JsonValue], UploadFile]:
    """Return a multipart body's fields, repeated ones as lists, and its image file.

    Raises:
        APIError: it is not multipart, or has no image file, or several files.
    """
    try:
        async with asyncio.timeout(limits.body_seconds):
            form = await request.form(max_files=1, max_fields=_MAX_FORM_FIELDS)
    except TimeoutError as error:
        raise _body_too_slow_error(limits) from error
    except HTTPException as error:
        raise APIError(400, "invalid_multipart", f"multipart: {error.detail}") from error
    fields: dict[str, JsonValue] = {}
    file = form.get("image")
    if not isinstance(file, UploadFile):
        raise APIError(400, "invalid_value", "image: send the picture as a file", "image")
    for name in form:
        if name != "image":
            values: list[JsonValue] = [part for part in form.getlist(name) if isinstance(part, str)]
            fields[name] = values[0] if len(values) == 1 else values
    return fields, file
