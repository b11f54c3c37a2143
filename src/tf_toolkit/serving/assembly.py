"""All that answers HTTP, put together."""

from __future__ import annotations

import logging
import os

from tf_toolkit.serving import operations
from tf_toolkit.serving.access_log import AccessLog
from tf_toolkit.serving.app import App
from tf_toolkit.serving.handled_invocations import HandledInvocations
from tf_toolkit.serving.handler_threads import HandlerThreads, thread_count
from tf_toolkit.serving.handlers import Handlers
from tf_toolkit.serving.health import Health
from tf_toolkit.serving.http_server import HttpServer
from tf_toolkit.serving.invocations import Invocations
from tf_toolkit.serving.metrics import Metrics
from tf_toolkit.serving.model_code import ModelCode
from tf_toolkit.serving.multi_model import MultiModel
from tf_toolkit.serving.registry import Load, Registry
from tf_toolkit.serving.rest import Rest
from tf_toolkit.serving.routes import Routes
from tf_toolkit.serving.settings import Settings

log = logging.getLogger("tf_toolkit")


def make_server(
    registry: Registry, default_model: str, load: Load, settings: Settings, code: ModelCode | None
) -> HttpServer:
    """The server for the models of a registry, which may still be loading, and for the user's code, if there is any.

    By ``load`` are those loaded that the platform asks for, where it is to serve many. Raises ExecuteUserScriptError
    and JobDescriptionError.
    """
    metrics = Metrics()
    invocations = Invocations(registry, default_model, settings)
    endpoint: MultiModel | HandledInvocations | Invocations = invocations
    if settings.multi_model:
        endpoint = MultiModel(registry, invocations, load, settings)
    elif code is not None:
        handlers = Handlers(code, HandlerThreads(thread_count(os.environ)))
        endpoint = HandledInvocations(handlers, registry, default_model, settings)
    routes = [
        *operations.routes(
            Health(registry, settings.timeout), lambda: metrics.text(len(app.in_flight), registry), settings
        ),
        *endpoint.routes(),
        *Rest(registry, settings.max_request_bytes).routes(),
    ]
    app = App(Routes(routes), metrics, AccessLog(log.isEnabledFor(logging.INFO)), settings.timeout)
    return HttpServer(app, settings.timeout)
