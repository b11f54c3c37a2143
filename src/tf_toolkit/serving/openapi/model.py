"""The REST API of one model, as its signatures allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from tf_toolkit.serving.classify_json import answers, takes_features, takes_messages
from tf_toolkit.serving.expectation import tensors
from tf_toolkit.serving.media_types import JSON
from tf_toolkit.serving.openapi import examples
from tf_toolkit.serving.openapi.responses import OF_BODIES, OF_MODELS, answer, errors
from tf_toolkit.serving.openapi.schemas import (
    Schema,
    any_of,
    in_json,
    named,
    of_rows,
    predict_answer,
    predict_request,
    reference,
    request,
    rows_taken,
)
from tf_toolkit.serving.signature import DEFAULT_SIGNATURE, Signature

Signatures = Mapping[str, Signature]

# The schemas of answers, of which that to predict is each model's own.
ANSWERS = {"predict": "predictions", "classify": "classes", "regress": "values"}


class Version(NamedTuple):
    """One version of a model, as it is at the moment."""

    model: str
    number: int
    state: str
    # None where it does not answer.
    signatures: Signatures | None

    def component(self, name: str) -> str:
        """The name of a component of this version. Models may have any name, and components only some letters."""
        escaped = quote(self.model.replace(".", "..").replace("~", ".7E"), safe="").replace("%", ".")
        return f"{name}-{self.number}-{escaped}"


def described(version: Version) -> str:
    """What the version is, with a line for each signature."""
    lines = [f"Version {version.number}: {version.state}"]
    for name, signature in (version.signatures or {}).items():
        lines.append(f"{name}: {tensors(signature.inputs) or 'nothing'} → {tensors(signature.outputs) or 'nothing'}")
    return "\n".join(lines)


def components(version: Version) -> dict[str, dict[str, Any]]:
    """What its paths refer to."""
    schemas, bodies = {}, {}
    for method, signatures in methods(version):
        name = version.component(method)
        schemas[name] = _request_schema(method, signatures)
        bodies[name] = {"required": True, "content": {JSON: json_content(method, version, signatures)}}
        if method == "predict":
            schemas[version.component(ANSWERS[method])] = predict_answer(signatures)
    return {"schemas": schemas, "requestBodies": bodies}


def json_content(method: str, version: Version, signatures: Signatures) -> dict[str, Any]:
    """A body of JSON, with an example for each signature."""
    small = {name: signature for name, signature in signatures.items() if examples.are_made(signature)}
    found = {name: {"value": _example(method, name, signature)} for name, signature in small.items()}
    return {"schema": reference("schemas", version.component(method)), **({"examples": found} if found else {})}


def answer_schema(method: str, version: Version) -> Schema:
    """The body of the answer."""
    name = ANSWERS[method]
    return reference("schemas", version.component(name) if method == "predict" else name)


def paths(version: Version, *, newest: bool) -> dict[str, Any]:
    """Its paths; with those that are for the newest version that answers, where it is that."""
    base = f"/v1/models/{quote(version.model, safe='')}"
    of_all = {base: {"get": _asked("status", "all versions", version)}}
    of_newest = _paths(version, base, "the newest version") if newest else {}
    return {**of_newest, **of_all, **_paths(version, f"{base}/versions/{version.number}", f"version {version.number}")}


def _paths(version: Version, base: str, which: str) -> dict[str, Any]:
    found = {base: {"get": _asked("status", which, version)}}
    if version.signatures is not None:
        found[f"{base}/metadata"] = {"get": _asked("metadata", which, version)}
    for method, _ in methods(version):
        name = version.component(method)
        found[f"{base}:{method}"] = {
            "post": {
                **_about(method, which, version),
                "requestBody": reference("requestBodies", name),
                "responses": {
                    "200": answer("what the model makes of it", {JSON: answer_schema(method, version)}),
                    **errors(*OF_BODIES, *OF_MODELS),
                },
            }
        }
    return found


def _asked(what: str, which: str, version: Version) -> dict[str, Any]:
    responses = {"200": answer(what, {JSON: reference("schemas", what)}), **errors(404)}
    return {**_about(what, which, version), "responses": responses}


def _about(what: str, which: str, version: Version) -> dict[str, Any]:
    return {
        "tags": [version.model],
        "summary": f"{what} of {which}",
        "operationId": f"{what.replace(' ', '-')}-{which.replace(' ', '-')}-{version.model}",
    }


def methods(version: Version) -> Iterator[tuple[str, Signatures]]:
    """The methods that can be asked, each with the signatures that answer it, the default first."""
    listed = sorted((version.signatures or {}).items(), key=lambda item: item[0] != DEFAULT_SIGNATURE)
    for method in ("predict", "classify", "regress"):
        signatures = {name: signature for name, signature in listed if _takes(method, name, signature)}
        if signatures:
            yield method, signatures


def _takes(method: str, name: str, signature: Signature) -> bool:
    has_answer = in_json(signature.outputs) if method == "predict" else answers(name, signature, method)
    return has_answer and in_json(signature.inputs)


def _request_schema(method: str, signatures: Signatures) -> Schema:
    if method == "predict":
        return predict_request(signatures)
    return any_of(_of_examples(name, signature) for name, signature in signatures.items())


def _of_examples(name: str, signature: Signature) -> Schema:
    """The body of a request to classify or regress."""
    kinds = []
    if takes_messages(signature):
        message = {"type": "object", "additionalProperties": reference("schemas", "feature")}
        kinds.append({"examples": of_rows(None, message), "context": message})
    if takes_features(signature):
        kinds.append({"examples": of_rows(None, named(rows_taken(signature)))})
    return any_of({"title": name, **request(name, kind, "examples")} for kind in kinds)


def _example(method: str, name: str, signature: Signature) -> dict[str, Any]:
    if method == "predict":
        return examples.predict(name, signature)
    return examples.of_method(name, signature, of_features=not takes_messages(signature))
