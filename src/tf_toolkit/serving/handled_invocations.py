"""POST /invocations where there are handlers: nothing is checked or converted before them."""

from __future__ import annotations

import re

from tf_toolkit.serving import custom_attributes
from tf_toolkit.serving.context import make
from tf_toolkit.serving.grpc_listener import GrpcListener
from tf_toolkit.serving.handlers import Handlers
from tf_toolkit.serving.media_types import JSON
from tf_toolkit.serving.registry import Registry
from tf_toolkit.serving.request import Request, Response
from tf_toolkit.serving.rest import answer
from tf_toolkit.serving.routes import Route
from tf_toolkit.serving.settings import Settings


class HandledInvocations:
    """The endpoint for the models of a registry."""

    def __init__(self, handlers: Handlers, registry: Registry, default_model: str, settings: Settings) -> None:
        self._handlers = handlers
        self._registry = registry
        self._default_model = default_model
        self._settings = settings
        self._grpc = GrpcListener(registry, settings)

    def routes(self) -> list[Route]:
        return [Route("/invocations", "/invocations", {"POST": self._invoke})]

    def is_handled(self, model_name: str) -> bool:
        """Whether the user's code answers for the model."""
        return True

    async def _invoke(self, request: Request, match: re.Match[str] | None) -> Response:
        asked = custom_attributes.parse(request.header(custom_attributes.HEADER))
        name = asked.model_name or self._default_model
        return await invoke(self._handlers, request, name, asked, self._registry, self._settings, self._grpc)


async def invoke(
    handlers: Handlers,
    request: Request,
    model_name: str,
    asked: custom_attributes.CustomAttributes,
    registry: Registry,
    settings: Settings,
    grpc: GrpcListener,
) -> Response:
    """A request for a model, through its handlers."""
    # A label of the metrics, which clients must not make up.
    request.model = model_name if model_name in registry.names() else ""
    body = await request.body(settings.max_request_bytes)
    context = make(
        registry,
        model_name,
        asked,
        grpc,
        rest_port=settings.rest_port,
        custom_attributes=request.header(custom_attributes.HEADER),
        content_type=request.header(b"content-type") or JSON,
        accept=request.header(b"accept") or settings.default_accept,
        content_length=len(body),
        timeout=settings.timeout,
    )

    async def ask(sent: bytes) -> bytes:
        return await answer(registry.servable(model_name, asked.version), context.method, sent)

    return await handlers.answer(body, context, ask)
