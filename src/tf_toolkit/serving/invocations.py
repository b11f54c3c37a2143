"""POST /invocations: what the platform sends, for the model, version and method that its custom attributes name."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from functools import lru_cache, partial

from tf_toolkit.serving import custom_attributes, media_types
from tf_toolkit.serving.accept import render_invocation
from tf_toolkit.serving.content import json_body, parse_invocation
from tf_toolkit.serving.registry import Registry
from tf_toolkit.serving.request import Request, Response
from tf_toolkit.serving.rest import answer
from tf_toolkit.serving.routes import Route
from tf_toolkit.serving.settings import Settings
from tf_toolkit.serving.work import FEW_BYTES, off_the_loop, size

# Clients send the same header with every request.
_chosen = lru_cache(maxsize=100)(media_types.choose)


class Invocations:
    """The endpoint for the models of a registry."""

    def __init__(self, registry: Registry, default_model: str, settings: Settings) -> None:
        self._registry = registry
        self._default_model = default_model
        self._settings = settings

    def routes(self) -> list[Route]:
        return [Route("/invocations", "/invocations", {"POST": self._answer})]

    def is_handled(self, model_name: str) -> bool:
        """Whether the user's code answers for the model."""
        return False

    def _answer(self, request: Request, match: re.Match[str] | None) -> Awaitable[Response]:
        return self.invoke(request, None)

    async def invoke(self, request: Request, model_name: str | None) -> Response:
        """The answer to a request, for the model of that name; without one, for the one that the request asks for."""
        asked = custom_attributes.parse(request.header(custom_attributes.HEADER))
        servable = self._registry.servable(model_name or asked.model_name or self._default_model, asked.version)
        request.model = servable.name
        body = await request.body(self._settings.max_request_bytes)
        content_type = request.header(b"content-type")
        if asked.method in ("classify", "regress"):
            return Response(await answer(servable, asked.method, json_body(body, content_type)))
        parse = partial(parse_invocation, body, content_type, servable.engine.signatures)
        predict = parse() if len(body) <= FEW_BYTES else await off_the_loop(parse)
        outputs = await servable.run(predict.signature_name, predict.inputs, predict.outputs)
        media_type = _chosen(request.header(b"accept"), self._settings.default_accept)
        render = partial(render_invocation, predict, outputs, media_type)
        return Response(render() if size(outputs) <= FEW_BYTES else await off_the_loop(render), media_type)
