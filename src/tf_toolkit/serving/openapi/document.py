"""The whole description, and what of it is the same for all models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import tf_toolkit
from tf_toolkit.serving.media_types import JSON
from tf_toolkit.serving.openapi import invocations, model, multi_model, responses
from tf_toolkit.serving.openapi.model import Version
from tf_toolkit.serving.openapi.responses import answer, errors
from tf_toolkit.serving.openapi.schemas import Schema, any_of, array, elements, named, reference
from tf_toolkit.serving.registry import State

_SERVER = "server"
_TEXT: Schema = {"type": "string"}
_PARAMETERS = ("MaxConcurrentTransforms", "MaxPayloadInMB")


class Served(NamedTuple):
    """What there is to describe."""

    # Of each model the newest first.
    versions: Sequence[Version]
    # Of /invocations; None where the platform names the model in the path.
    default_model: str | None
    # Below it the platform puts models.
    root: Path
    # Models that the user's code answers for.
    handled: Set[str]


def document(served: Served) -> dict[str, Any]:
    """The description."""
    paths = _of_server()
    components = _components()
    if served.default_model is None:
        paths.update(multi_model.paths(served.root))
        components["schemas"].update(multi_model.components())
    newest: dict[str, Version] = {}
    for version in served.versions:
        is_newest = version.signatures is not None and version.model not in newest
        if is_newest:
            newest[version.model] = version
        paths.update(model.paths(version, newest=is_newest))
        for kind, found in model.components(version).items():
            components[kind].update(found)
    paths.update(_invocations(served, newest.values()))
    return {
        "openapi": "3.1.0",
        "info": {"title": "tf-toolkit serve", "version": tf_toolkit.__version__},
        "tags": _tags(served),
        "paths": paths,
        "components": components,
    }


def _invocations(served: Served, newest: Iterable[Version]) -> dict[str, Any]:
    found = {}
    for version in newest:
        name = version.model
        if served.default_model in (None, name):
            by_model = invocations.handled() if name in served.handled else invocations.operation(version)
            path = "/invocations" if served.default_model else f"/models/{quote(name, safe='')}/invoke"
            about = {"tags": [name], "summary": f"invoke {name}", "operationId": f"invoke-{name}"}
            found[path] = {"post": {**about, **by_model}}
    return found


def _tags(served: Served) -> list[dict[str, str]]:
    """The models, with what they take and give."""
    lines: dict[str, list[str]] = {_SERVER: ["Of the server itself"]}
    if served.default_model is None:
        lines[multi_model.TAG] = ["Load and unload models"]
    for version in served.versions:
        lines.setdefault(version.model, []).append(model.described(version))
    return [{"name": name, "description": "\n".join(described)} for name, described in lines.items()]


def _of_server() -> dict[str, Any]:
    parameters = named({name: {"type": "integer", "minimum": 0} for name in _PARAMETERS})
    return {
        "/ping": {"get": _get("ping", answer("ready", {}))},
        "/metrics": {"get": _get("metrics", answer("of Prometheus", {"text/plain": _TEXT}))},
        "/execution-parameters": {
            "get": _get("execution-parameters", answer("of a batch transform", {JSON: parameters}))
        },
    }


def _get(name: str, response: dict[str, Any]) -> dict[str, Any]:
    return {"tags": [_SERVER], "summary": name, "operationId": name, "responses": {"200": response, **errors()}}


def _components() -> dict[str, dict[str, Any]]:
    schemas = {
        **elements(),
        "error": responses.error_schema(),
        "status": _status(),
        "metadata": _metadata(),
        "feature": _feature(),
        model.ANSWERS["classify"]: named({"results": array((-1,), array((-1,), _label_and_score()))}),
        model.ANSWERS["regress"]: named({"results": array((-1,), reference("schemas", "number"))}),
    }
    return {"schemas": schemas, "requestBodies": {}, "responses": responses.components()}


def _feature() -> Schema:
    """Of a tf.Example: what the model does not look at may be of any kind, but is of one."""
    kinds = [reference("schemas", name) for name in ("float", "int64", "string")]
    return any_of([*kinds, *({"type": "array", "items": kind} for kind in kinds)])


def _label_and_score() -> Schema:
    pair = [reference("schemas", "string"), reference("schemas", "number")]
    return {"type": "array", "prefixItems": pair, "minItems": 2, "maxItems": 2}


def _status() -> Schema:
    status = named({"error_code": _TEXT, "error_message": _TEXT})
    version = named({"version": _TEXT, "state": {"enum": [state.name for state in State]}, "status": status})
    return named({"model_version_status": {"type": "array", "items": version}})


def _metadata() -> Schema:
    dim = named({"size": _TEXT, "name": _TEXT})
    shape = named({"dim": {"type": "array", "items": dim}, "unknown_rank": {"type": "boolean"}})
    tensors = _by_names(named({"dtype": _TEXT, "tensor_shape": shape, "name": _TEXT}))
    signature = named({"inputs": tensors, "outputs": tensors, "method_name": _TEXT})
    spec = named({"name": _TEXT, "signature_name": _TEXT, "version": _TEXT})
    signatures = named({"signature_def": named({"signature_def": _by_names(signature)})})
    return named({"model_spec": spec, "metadata": signatures})


def _by_names(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}
