"""GET /openapi.json."""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson

from tf_toolkit.serving.registry import Registry, State
from tf_toolkit.serving.request import Request, Response
from tf_toolkit.serving.routes import Route
from tf_toolkit.serving.settings import Settings
from tf_toolkit.serving.work import in_thread

PATH = "/openapi.json"


class Description:
    """The endpoint for the models of a registry."""

    def __init__(
        self, registry: Registry, default_model: str, settings: Settings, is_handled: Callable[[str], bool]
    ) -> None:
        """Some models' invocations are handled by the user's code."""
        self._registry = registry
        self._default_model: str | None = None if settings.multi_model else default_model
        self._root = settings.model_dir.parent
        self._is_handled = is_handled

    def routes(self) -> list[Route]:
        return [Route(PATH, PATH, {"GET": self._answer})]

    async def _answer(self, request: Request, match: re.Match[str] | None) -> Response:
        # What few ask for, and nobody is to wait for at the start.
        from tf_toolkit.serving.openapi import document
        from tf_toolkit.serving.openapi.model import Version

        # What changes is looked at here, on the event loop, and the work done elsewhere: there may be many models.
        versions = [
            Version(
                servable.name,
                servable.version,
                servable.state.name,
                servable.engine.signatures if servable.state is State.AVAILABLE else None,
            )
            for servable in self._registry
        ]
        handled = {version.model for version in versions if self._is_handled(version.model)}
        served = document.Served(versions, self._default_model, self._root, handled)
        return Response(await in_thread(lambda: orjson.dumps(document.document(served))))
