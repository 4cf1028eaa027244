"""Request schemas, error responses and example values of /openapi.json."""

import base64
import io
from collections.abc import Sequence
from typing import cast

from PIL import Image
from pydantic import BaseModel, JsonValue
from pydantic.json_schema import models_json_schema

_STATUS_DESCRIPTIONS = {
    400: "The request is not understood, or exceeds a limit.",
    401: "The API key is missing or wrong.",
    403: "Requests from pages of another origin are refused.",
    404: "There is no such model or path.",
    405: "The path does not take this method.",
    408: "The body took too long to arrive.",
    413: "The body has too many bytes.",
    415: "The body or the picture is of a type that is not supported.",
    429: "Too many requests wait; Retry-After says when to try again.",
    500: "flmm failed.",
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
ERROR_RESPONSES: dict[int | str, dict[str, object]] = {
    status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
    for status, text in _STATUS_DESCRIPTIONS.items()
}
"""Error responses of every route, with OpenAI's error object."""

_REF_TEMPLATE = "#/components/schemas/{model}"


def build_request_schemas(models: Sequence[type[BaseModel]]) -> dict[str, JsonValue]:
    """Return the JSON schemas of request models, for OpenAPI's components."""
    _, schemas = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REF_TEMPLATE
    )
    return cast(dict[str, JsonValue], schemas["$defs"])


def _example_picture() -> str:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (90, 160, 70)).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def describe_body(
    model: type[BaseModel], example: JsonValue, multipart: bool = True
) -> dict[str, object]:
    """Return the OpenAPI description of a route's body: JSON, and multipart if supported."""
    schema = {"$ref": _REF_TEMPLATE.format(model=model.__name__)}
    content: dict[str, object] = {"application/json": {"schema": schema, "example": example}}
    if multipart:
        fields = {
            name: {"type": "string", "format": "binary"} if name == "image" else part
            for name, part in _model_properties(model).items()
        }
        form = {"type": "object", "required": _required(model), "properties": fields}
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


def _model_properties(model: type[BaseModel]) -> dict[str, object]:
    return dict(model.model_json_schema()["properties"])


def _required(model: type[BaseModel]) -> list[str]:
    return list(model.model_json_schema()["required"])


EXAMPLE_PICTURE = _example_picture()
EXAMPLE_QUESTION = "What is in the picture?"
