"""What may come back, besides what was asked for: the JSON errors, by their statuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tf_toolkit.serving.errors import HTTP_STATUS
from tf_toolkit.serving.media_types import JSON
from tf_toolkit.serving.openapi.schemas import Schema, named, reference
from tf_toolkit.serving.settings import MAX_REQUEST_SIZE, TIMEOUT

_MEANINGS = {
    400: "the request is no good, or the model refuses it",
    404: "there is no such model or version, or it does not answer yet",
    406: "the answer cannot be of the type that is accepted",
    408: f"the request did not come in within the time that {TIMEOUT} sets",
    409: "a model of that name is loaded already",
    413: f"the body is larger than {MAX_REQUEST_SIZE} allows",
    415: "the body is of a type that is not read",
    431: "the request's headers are too large",
    500: "a fault of the server, or of code in the model",
    503: "not ready, or the server is ending",
    504: f"no answer within the time that {TIMEOUT} sets",
    507: "there is not enough memory",
}
# Of any request: those of HTTP itself, and the server's own.
_OF_ANY = (400, 408, 431, 500, 503, 504)
# Of those with a body besides.
OF_BODIES = (404, 413, 507)
# What a model says, which is TensorFlow's to say.
OF_MODELS = tuple(sorted(set(HTTP_STATUS.values())))


def errors(*statuses: int) -> dict[str, Schema]:
    """The responses of these statuses, and of those that any request may get."""
    return {str(status): reference("responses", str(status)) for status in sorted({*_OF_ANY, *statuses})}


def components() -> dict[str, Any]:
    """What the responses refer to."""
    codes: dict[int, list[str]] = {}
    for code, status in HTTP_STATUS.items():
        codes.setdefault(status, []).append(code)
    meanings = {status: f"TensorFlow's {' or '.join(names)}" for status, names in codes.items()}
    return {
        str(status): {"description": meaning, "content": {JSON: {"schema": reference("schemas", "error")}}}
        for status, meaning in sorted({**meanings, **_MEANINGS}.items())
    }


def error_schema() -> Schema:
    return named({"error": {"type": "string"}})


def answer(description: str, content: Mapping[str, Schema]) -> dict[str, Any]:
    """A response that is no error, by its media types."""
    body = {"content": {name: {"schema": schema} for name, schema in content.items()}} if content else {}
    return {"description": description, **body}
