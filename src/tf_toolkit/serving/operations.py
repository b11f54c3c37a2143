"""What the platform and operators ask: /ping, /metrics, /execution-parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import orjson

from tf_toolkit.serving import metrics
from tf_toolkit.serving.health import Health
from tf_toolkit.serving.request import Request, Response, refusal
from tf_toolkit.serving.routes import Route
from tf_toolkit.serving.settings import Settings


def routes(health: Health, measured: Callable[[], str], settings: Settings) -> list[Route]:
    """Their routes."""
    return [
        Route("/ping", "/ping", {"GET": partial(_ping, health)}),
        Route("/metrics", "/metrics", {"GET": partial(_metrics, measured)}),
        Route("/execution-parameters", "/execution-parameters", {"GET": partial(_execution_parameters, settings)}),
    ]


async def _ping(health: Health, request: Request, match: re.Match[str] | None) -> Response:
    trouble = health.trouble()
    return Response(b"") if trouble is None else refusal(503, trouble)


async def _metrics(measured: Callable[[], str], request: Request, match: re.Match[str] | None) -> Response:
    return Response(measured().encode(), metrics.CONTENT_TYPE)


async def _execution_parameters(settings: Settings, request: Request, match: re.Match[str] | None) -> Response:
    """What a batch transform does where whoever started it has not said.

    Nothing of BatchStrategy: the service and the SDK's local mode spell its values differently.
    """
    parameters = {
        "MaxConcurrentTransforms": settings.max_concurrent_transforms,
        "MaxPayloadInMB": settings.max_payload_mb,
    }
    return Response(orjson.dumps(parameters))
