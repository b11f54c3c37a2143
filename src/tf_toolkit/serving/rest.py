"""TensorFlow Serving's REST API over HTTP: https://www.tensorflow.org/tfx/serving/api_rest."""

from __future__ import annotations

import re
from functools import partial
from urllib.parse import unquote

from tf_toolkit.serving.classify_json import parse_examples, render_classify, render_regress
from tf_toolkit.serving.errors import invalid
from tf_toolkit.serving.metadata import VersionStatus, metadata_body, status_body
from tf_toolkit.serving.registry import Registry, Servable
from tf_toolkit.serving.request import Request, Response
from tf_toolkit.serving.rest_json import parse_predict, render_predict
from tf_toolkit.serving.routes import Route
from tf_toolkit.serving.work import FEW_BYTES, off_the_loop, size

# As TensorFlow Serving has them; a version has 64 bits.
_MODEL = r"/v1/models/([^/:]+)(?:/versions/([0-9]{1,19})|/labels/([^/:]+))?"
_METHOD = re.compile(rf"(?i:{_MODEL}:(predict|classify|regress))")
_STATUS = re.compile(rf"(?i:{_MODEL})")
_METADATA = re.compile(rf"(?i:{_MODEL}/metadata)")
_NAMELESS = re.compile(r"(?i:/v1/models/?)")
_MALFORMED = re.compile(r"(?i:/v1/models[/:].*)")


class Rest:
    """The API for the models of a registry."""

    def __init__(self, registry: Registry, max_request_bytes: int) -> None:
        self._registry = registry
        self._max_request_bytes = max_request_bytes

    def routes(self) -> list[Route]:
        return [
            Route("method", _METHOD, {"POST": self._method}),
            Route("status", _STATUS, {"GET": self._status}),
            Route("metadata", _METADATA, {"GET": self._metadata}),
            Route("nameless", _NAMELESS, {"GET": _nameless}),
            Route("malformed", _MALFORMED, {"GET": _malformed, "POST": _malformed}),
        ]

    async def _method(self, request: Request, match: re.Match[str] | None) -> Response:
        name, version, label = _asked(match)
        assert match is not None
        servable = self._registry.servable(name, version, label)
        request.model = name
        body = await request.body(self._max_request_bytes)
        return Response(await answer(servable, match[4].lower(), body))

    async def _status(self, request: Request, match: re.Match[str] | None) -> Response:
        name, version, label = _asked(match)
        return Response(status_body(map(_status_of, self._registry.versions(name, version, label))))

    async def _metadata(self, request: Request, match: re.Match[str] | None) -> Response:
        servable = self._registry.servable(*_asked(match))
        return Response(metadata_body(servable.name, servable.version, servable.engine.signatures))


async def answer(servable: Servable, method: str, body: bytes) -> bytes:
    """The body of the answer of a method, one of predict, classify and regress. Raises RequestError."""
    signatures = servable.engine.signatures
    if method == "predict":
        parse = partial(parse_predict, body, signatures)
        predict = parse() if len(body) <= FEW_BYTES else await off_the_loop(parse)
        outputs = await servable.run(predict.signature_name, predict.inputs, predict.outputs)
        render = partial(render_predict, predict, outputs)
    else:
        parse_them = partial(parse_examples, body, signatures, method)
        examples = parse_them() if len(body) <= FEW_BYTES else await off_the_loop(parse_them)
        outputs = await servable.run(examples.signature_name, examples.inputs, examples.outputs)
        render = partial(render_classify if method == "classify" else render_regress, examples, outputs)
    return render() if size(outputs) <= FEW_BYTES else await off_the_loop(render)


def _status_of(servable: Servable) -> VersionStatus:
    return VersionStatus(servable.version, servable.state.name, "UNKNOWN" if servable.error else "OK", servable.error)


def _asked(match: re.Match[str] | None) -> tuple[str, int | None, str | None]:
    """The name, and the version or the label."""
    assert match is not None
    version, label = match[2], match[3]
    return unquote(match[1]), None if version is None else int(version), None if label is None else unquote(label)


async def _nameless(request: Request, match: re.Match[str] | None) -> Response:
    raise invalid("Missing model name in request.")


async def _malformed(request: Request, match: re.Match[str] | None) -> Response:
    raise invalid(f"Malformed request: {request.method} {request.raw_path}")
