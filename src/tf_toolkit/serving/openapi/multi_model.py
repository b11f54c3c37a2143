"""The management of many models, as the platform asks for it: see ``serving.multi_model``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tf_toolkit.serving.custom_attributes import MODEL_NAME
from tf_toolkit.serving.media_types import JSON
from tf_toolkit.serving.openapi.responses import answer, errors
from tf_toolkit.serving.openapi.schemas import Schema, named, reference

TAG = "models"
_NAME: Schema = {"type": "string", "pattern": f"^{MODEL_NAME.pattern}$"}
_PARAMETER = {"name": "name", "in": "path", "required": True, "schema": _NAME}
# Folders, none of which leads up again.
_BELOW = r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$"


def components() -> dict[str, Schema]:
    """Schemas."""
    text = {"type": "string"}
    model = named({"modelName": _NAME, "modelUrl": text})
    return {
        "model": model,
        "models": named({"models": {"type": "array", "items": reference("schemas", "model")}}),
        "success": named({"success": text}),
    }


def paths(root: Path) -> dict[str, Any]:
    """Of models whose folders lie below ``root``."""
    return {
        "/models": {"get": {**_get("list", "models", ()), "summary": "list the models"}, "post": _load(root)},
        "/models/{name}": {
            "get": {**_get("describe", "model", (404,)), "parameters": [_PARAMETER]},
            "delete": {
                **_about("unload"),
                "parameters": [_PARAMETER],
                "responses": {"200": _success("it is unloaded"), **errors(404)},
            },
        },
    }


def _load(root: Path) -> dict[str, Any]:
    place = {"type": "string", "pattern": f"^{re.escape(str(root))}{_BELOW}"}
    # What this request has made is what the others are about.
    name = {"name": "$request.body#/model_name"}
    links = {what: {"operationId": f"{what}-model", "parameters": name} for what in ("describe", "unload")}
    example = {"model_name": "NAME", "url": f"{root}/models/NAME/model"}
    schema = {**named({"model_name": _NAME, "url": place}), "additionalProperties": True}
    return {
        **_about("load"),
        "requestBody": {"required": True, "content": {JSON: {"schema": schema, "example": example}}},
        "responses": {"200": {**_success("it is loaded"), "links": links}, **errors(404, 409, 413, 507)},
    }


def _get(what: str, schema: str, statuses: tuple[int, ...]) -> dict[str, Any]:
    responses = {"200": answer("what is asked for", {JSON: reference("schemas", schema)}), **errors(*statuses)}
    return {**_about(what), "responses": responses}


def _about(what: str) -> dict[str, Any]:
    return {"tags": [TAG], "summary": f"{what} a model", "operationId": f"{what}-model"}


def _success(description: str) -> dict[str, Any]:
    return answer(description, {JSON: reference("schemas", "success")})
