"""Requests as the platform sends them, for one model: bodies of any type, by the default signature."""

from __future__ import annotations

from typing import Any

from tf_toolkit.serving.content import API_KEYS, is_of_graph
from tf_toolkit.serving.media_types import CSV, JSON, JSON_LINES, JSONS, NPY
from tf_toolkit.serving.openapi import examples
from tf_toolkit.serving.openapi.model import Version, answer_schema, json_content, methods
from tf_toolkit.serving.openapi.responses import OF_BODIES, OF_MODELS, answer, errors
from tf_toolkit.serving.openapi.schemas import Schema, any_of, in_json, in_rows, predict_answer, simplified
from tf_toolkit.serving.signature import DEFAULT_SIGNATURE, NUMPY_TYPES, Signature

_ATTRIBUTES = {
    "name": "X-Amzn-SageMaker-Custom-Attributes",
    "in": "header",
    "description": "tfs-model-name, tfs-model-version and tfs-method say which model answers, and how. To classify and "
    "regress, the body is that of the model's own path.",
    "schema": {"type": "string"},
    "example": "tfs-method=predict",
}
_TEXT: Schema = {"type": "string"}
# No schema can be of what is neither JSON nor text.
_BYTES: Schema = {}
_ANYTHING = "*/*"


def operation(version: Version) -> dict[str, Any]:
    """What is answered by the model itself."""
    signature = (version.signatures or {}).get(DEFAULT_SIGNATURE)
    content = _in_json(version, signature)
    if signature is not None:
        content.update({**_in_lines(signature), **_of_one_input(signature)})
    answers = [answer_schema(method, version) for method, _ in methods(version)]
    if signature is not None and CSV in content and all(is_of_graph(*item) for item in signature.inputs.items()):
        answers.append(predict_answer({DEFAULT_SIGNATURE: _bare(signature)}))
    types = {JSON: any_of(answers)} if answers else {}
    types.update({JSON_LINES: _TEXT, CSV: _TEXT, NPY: _BYTES})
    return {
        "parameters": [_ATTRIBUTES],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": answer("what the model makes of it, as Accept asks for it", types),
            **errors(406, 415, *OF_BODIES, *OF_MODELS),
        },
    }


def handled() -> dict[str, Any]:
    """What is answered by the user's code."""
    return {
        "parameters": [_ATTRIBUTES],
        "requestBody": {"content": {_ANYTHING: {}}},
        "responses": {
            "200": answer("what the handler in code/inference.py returns", {_ANYTHING: {}}),
            **errors(*OF_BODIES, *OF_MODELS),
        },
    }


def _in_json(version: Version, signature: Signature | None) -> dict[str, Any]:
    """Requests of the REST API, and, where there is a default signature, instances alone."""
    for method, signatures in methods(version):
        if method == "predict":
            content = json_content(method, version, signatures)
            if signature is not None and _has_rows(signature):
                content["schema"] = any_of([content["schema"], simplified(signature)])
            return {JSON: content}
    return {}


def _bare(signature: Signature) -> Signature:
    """The same with values in place of rows of one."""
    outputs = {
        name: info._replace(shape=info.shape[:1]) if info.shape and info.shape[1:] in ((1,), (-1,)) else info
        for name, info in signature.outputs.items()
    }
    return signature._replace(outputs=outputs)


def _has_rows(signature: Signature) -> bool:
    """Whether an instance alone is what it looks like: no request, and no column."""
    are_in_json = in_json(signature.inputs) and in_json(signature.outputs)
    return are_in_json and in_rows(signature) and not signature.inputs.keys() & API_KEYS


def _in_lines(signature: Signature) -> dict[str, Any]:
    if not _has_rows(signature):
        return {}
    zeros = {"example": examples.json_lines(examples.instances(signature))} if examples.are_made(signature) else {}
    lines = {"schema": {**_TEXT, "description": "an instance on each line"}, **zeros}
    return {JSON_LINES: lines, JSONS: lines}


def _of_one_input(signature: Signature) -> dict[str, Any]:
    """The types that have no names of inputs."""
    infos = list(signature.inputs.values())
    if len(infos) != 1 or infos[0].dtype not in NUMPY_TYPES:
        return {}
    (info,) = infos
    found: dict[str, dict[str, Any]] = {}
    if _has_rows(signature) and (info.shape is None or len(info.shape) <= 2):
        found[CSV] = {"schema": {**_TEXT, "description": "an instance on each line, without a header"}}
    found[NPY] = {"schema": {**_BYTES, "description": "the input as numpy.save writes it"}}
    if examples.are_made(signature):
        if CSV in found:
            found[CSV]["example"] = examples.csv(info)
        found[NPY]["examples"] = {"zeros": {"externalValue": examples.npy(info)}}
    return found
