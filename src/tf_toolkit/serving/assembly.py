"""All that answers HTTP, put together."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tf_toolkit.serving import operations, page
from tf_toolkit.serving.access_log import AccessLog
from tf_toolkit.serving.app import App
from tf_toolkit.serving.handled_invocations import HandledInvocations
from tf_toolkit.serving.handler_threads import HandlerThreads
from tf_toolkit.serving.handlers import Handlers
from tf_toolkit.serving.health import Health
from tf_toolkit.serving.http_server import HttpServer
from tf_toolkit.serving.invocations import Invocations
from tf_toolkit.serving.metrics import Metrics
from tf_toolkit.serving.model_code import ModelCode
from tf_toolkit.serving.multi_model import MultiModel
from tf_toolkit.serving.openapi.endpoint import Description
from tf_toolkit.serving.registry import Load, Registry
from tf_toolkit.serving.rest import Rest
from tf_toolkit.serving.routes import Routes
from tf_toolkit.serving.settings import Settings

if TYPE_CHECKING:
    from tf_toolkit.serving.model_server import ModelServers

log = logging.getLogger("tf_toolkit")


def make_server(
    registry: Registry,
    default_model: str,
    load: Load,
    settings: Settings,
    code: ModelCode | None,
    model_servers: ModelServers | None,
) -> HttpServer:
    """The server for the models of a registry, which may still be loading, and for the user's code, if there is any.

    By ``load`` are those loaded that the platform asks for, where it is to serve many; the code is then for those that
    have none of their own. Raises ExecuteUserScriptError.
    """
    metrics = Metrics()
    invocations = Invocations(registry, default_model, settings)
    endpoint: MultiModel | HandledInvocations | Invocations = invocations
    if settings.multi_model:
        threads = HandlerThreads(settings.handler_threads)
        common = None if code is None else Handlers(code, threads, apart=True)
        endpoint = MultiModel(registry, invocations, load, settings, threads, common)
    elif code is not None:
        handlers = Handlers(code, HandlerThreads(settings.handler_threads))
        endpoint = HandledInvocations(handlers, registry, default_model, settings)
    health = Health(registry, settings.timeout)
    if model_servers is not None:
        from tf_toolkit.serving.model_server_health import ModelServerHealth

        health = ModelServerHealth(registry, settings.timeout, model_servers)

    def measured() -> str:
        own = metrics.text(len(app.in_flight), registry)
        return own if model_servers is None else own + model_servers.metrics()

    routes = [
        *operations.routes(health, measured, settings),
        *endpoint.routes(),
        *Description(registry, default_model, settings, endpoint.is_handled).routes(),
        *page.routes(),
        *Rest(registry, settings.max_request_bytes).routes(),
    ]
    app = App(Routes(routes), metrics, AccessLog(log.isEnabledFor(logging.INFO)), settings.timeout)
    return HttpServer(app)
