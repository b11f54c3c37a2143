"""Whether all models answer, where they run in tensorflow_model_server."""

from __future__ import annotations

from tf_toolkit.serving.health import Health
from tf_toolkit.serving.model_server import ModelServers
from tf_toolkit.serving.registry import Registry


class ModelServerHealth(Health):
    """For the event loop alone."""

    def __init__(self, registry: Registry, timeout: float, servers: ModelServers) -> None:
        super().__init__(registry, timeout)
        self._servers = servers

    def trouble(self) -> str | None:
        # While no process answers, no model need be tried.
        return self._servers.trouble() or super().trouble()
