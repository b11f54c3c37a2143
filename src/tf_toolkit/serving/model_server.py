"""TensorFlow Serving's own server as what runs the models: processes of it beside this one, which stays in front."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from tf_toolkit.serving import saved_model
from tf_toolkit.serving.engine import Engine
from tf_toolkit.serving.errors import ModelError, ModelRunError
from tf_toolkit.serving.model_server_client import Answer
from tf_toolkit.serving.model_server_command import Starts
from tf_toolkit.serving.model_server_process import ModelServerProcess
from tf_toolkit.serving.model_server_settings import PROGRAM, ModelServer
from tf_toolkit.serving.models import FoundModel
from tf_toolkit.serving.registry import Runner
from tf_toolkit.serving.settings import Settings

if TYPE_CHECKING:
    from tf_toolkit.serving.model_server_engine import Ask, ModelServerEngine

# Requests that wait for an answer, each in a thread: so many, or as many more as fill a batch of each process.
_REQUESTS, _MOST_REQUESTS = 64, 1024
# Between TERM and KILL: what was in flight has been answered before.
_GRACE_SECONDS = 2.0


class ModelServers:
    """The processes. Each has all models."""

    def __init__(self, settings: Settings, model_server: ModelServer, models: Mapping[str, FoundModel]) -> None:
        """Start them. Raises JobDescriptionError."""
        paths = {name: f"/v1/models/{quote(os.fsencode(name), safe='')}" for name in models}
        self._paths = {
            directory: f"{paths[name]}/versions/{version}"
            for name, model in models.items()
            for version, directory in model.versions.items()
        }
        self._signatures = functools.lru_cache(maxsize=None)(saved_model.read)
        batches = model_server.instances * settings.batching.max_batch_size
        requests = min(max(_REQUESTS, batches), _MOST_REQUESTS)
        self._threads = ThreadPoolExecutor(requests, thread_name_prefix="forward")
        self._starts = Starts(settings, model_server, models.values())
        self._processes = [
            ModelServerProcess(
                PROGRAM if model_server.instances == 1 else f"{PROGRAM} {number}",
                functools.partial(self._starts.of, number),
                {paths[name]: len(model.versions) for name, model in models.items()},
                self._warm_up,
                settings.timeout,
                settings.load_time,
            )
            for number in range(model_server.instances)
        ]

    def load(self, directory: Path) -> tuple[Engine, Runner]:
        """In a thread: a version of a model, when all processes have it. Raises ModelError."""
        # With numpy, which is not to be waited for at the start.
        from tf_toolkit.serving.model_server_engine import ForwardingRunner

        engine = self._engine(directory, self._ask)
        for process in self._processes:
            try:
                process.first_start.result()
            except ModelError as error:
                raise ModelError(f"{directory}: {error}") from None
        return engine, ForwardingRunner(engine, self._threads)

    def trouble(self) -> str:
        """Why no process answers, though they did; or nothing."""
        if any(process.is_up for process in self._processes):
            return ""
        return "; ".join(process.trouble for process in self._processes if process.trouble)

    def metrics(self) -> str:
        """Lines for /metrics."""
        lines = [
            "# HELP tf_toolkit_model_server_up 1 where the process answers, else 0.",
            "# TYPE tf_toolkit_model_server_up gauge",
            *(_metric("up", number, int(process.is_up)) for number, process in enumerate(self._processes)),
            "# HELP tf_toolkit_model_server_crashes_total Ends of the process that nobody asked for.",
            "# TYPE tf_toolkit_model_server_crashes_total counter",
            *(_metric("crashes_total", number, process.crashes) for number, process in enumerate(self._processes)),
        ]
        return "".join(f"{line}\n" for line in lines)

    def close(self) -> None:
        """End them."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self._processes:
                process.end(number)
            deadline = time.monotonic() + _GRACE_SECONDS
            ended = [process.join(max(0.0, deadline - time.monotonic())) for process in self._processes]
            if all(ended):
                break
        self._starts.close()

    def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        """Of the processes that answer, that with the least to do."""
        up = [process for process in self._processes if process.is_up]
        if not up:
            raise ModelRunError("UNAVAILABLE", self.trouble() or f"{PROGRAM} has not started yet")
        return min(up, key=lambda process: process.in_flight).ask(method, path, body)

    def _warm_up(self, ask: Ask) -> None:
        from tf_toolkit.serving.warm_up import warm_up

        for directory in self._paths:
            try:
                engine = self._engine(directory, ask)
            except ModelError:
                # Whoever loads it hears of that.
                continue
            warm_up(engine, directory)

    def _engine(self, directory: Path, ask: Ask) -> ModelServerEngine:
        from tf_toolkit.serving.model_server_engine import ModelServerEngine

        return ModelServerEngine(self._signatures(directory), self._paths[directory], ask)


def _metric(name: str, number: int, value: int) -> str:
    return f'tf_toolkit_model_server_{name}{{instance="{number}"}} {value}'
