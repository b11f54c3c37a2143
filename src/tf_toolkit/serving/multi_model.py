"""Many models behind one endpoint, which the platform loads and unloads as they are asked for.

https://docs.aws.amazon.com/sagemaker/latest/dg/mms-container-apis.html

Handlers come with a model, in the code beside it, or are common to those that bring none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson

from tf_toolkit.errors import ToolkitError
from tf_toolkit.hardware import available_memory
from tf_toolkit.serving import custom_attributes, handled_invocations
from tf_toolkit.serving.errors import ModelError, ModelRunError, RequestError, invalid
from tf_toolkit.serving.grpc_listener import GrpcListener
from tf_toolkit.serving.handler_threads import HandlerThreads
from tf_toolkit.serving.handlers import Handlers
from tf_toolkit.serving.invocations import Invocations
from tf_toolkit.serving.json_text import parse
from tf_toolkit.serving.loaded_model import LoadedModel
from tf_toolkit.serving.models import FoundModel, find_models
from tf_toolkit.serving.registry import Load, Registry, servables_of
from tf_toolkit.serving.request import Request, Response, refusal
from tf_toolkit.serving.routes import Route
from tf_toolkit.serving.settings import Settings

log = logging.getLogger("tf_toolkit")

# What a model takes for each byte of its files, and what must be left for requests.
_MEMORY_PER_BYTE = 1.3
_RESERVE_BYTES = 64 << 20
_NO_MEMORY = 507
_EXHAUSTED = "RESOURCE_EXHAUSTED"
_MOST_DESCRIPTION_BYTES = 100_000
# Side by side: no model waits for one that never ends loading, until there are so many of those.
_LOADERS = 16


class MultiModel:
    """The endpoints. For the event loop alone."""

    def __init__(
        self,
        registry: Registry,
        invocations: Invocations,
        load: Load,
        settings: Settings,
        threads: HandlerThreads,
        common: Handlers | None,
    ) -> None:
        """``threads`` are for handlers; ``common`` are those of models that bring none."""
        self._registry = registry
        self._invocations = invocations
        self._load = load
        self._settings = settings
        self._threads = threads
        self._common = common
        self._grpc = GrpcListener(registry, settings)
        # Where the platform puts models.
        self._root = settings.model_dir.parent
        self._models: dict[str, LoadedModel] = {}
        # By the names of models. A task whose request has timed out goes on.
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._unloading: dict[str, asyncio.Task[None]] = {}
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="load")
        # Bytes that models take which are being loaded.
        self._promised = 0

    def routes(self) -> list[Route]:
        return [
            Route("/models", "/models", {"GET": self._list, "POST": self._create}),
            Route("/models/{name}", re.compile(r"/models/([^/]+)"), {"GET": self._describe, "DELETE": self._delete}),
            Route("/models/{name}/invoke", re.compile(r"/models/([^/]+)/invoke"), {"POST": self._invoke}),
            Route("/invocations", "/invocations", {"POST": _nameless}),
        ]

    def is_handled(self, model_name: str) -> bool:
        """Whether the user's code answers for the model."""
        model = self._models.get(model_name)
        return model is not None and model.handlers is not None

    async def _list(self, request: Request, match: re.Match[str] | None) -> Response:
        models = [_described(name, model) for name, model in sorted(self._models.items())]
        return Response(orjson.dumps({"models": models}))

    async def _create(self, request: Request, match: re.Match[str] | None) -> Response:
        name, url = _asked(parse(await request.body(_MOST_DESCRIPTION_BYTES)))
        if name in self._models or name in self._loading:
            return refusal(409, f"Model {name} is already loaded.")
        await _done(self._loading, name, self._load_model(name, url))
        # A label of the metrics, which clients must not make up.
        request.model = name
        return _success(f"Successfully loaded model {name}.")

    async def _describe(self, request: Request, match: re.Match[str] | None) -> Response:
        name, model = self._known(match)
        return Response(orjson.dumps(_described(name, model)))

    async def _delete(self, request: Request, match: re.Match[str] | None) -> Response:
        name, model = self._known(match)
        del self._models[name]
        await _done(self._unloading, name, self._unload_model(name, model))
        return _success(f"Successfully unloaded model {name}.")

    async def _invoke(self, request: Request, match: re.Match[str] | None) -> Response:
        name, model = self._known(match)
        try:
            with model.in_use():
                if model.handlers is None:
                    return await self._invocations.invoke(request, name)
                asked = custom_attributes.parse(request.header(custom_attributes.HEADER))
                return await handled_invocations.invoke(
                    model.handlers, request, name, asked, self._registry, self._settings, self._grpc
                )
        except ModelRunError as error:
            if error.code != _EXHAUSTED:
                raise
            raise RequestError(_NO_MEMORY, error.message) from error

    def _known(self, match: re.Match[str] | None) -> tuple[str, LoadedModel]:
        assert match is not None
        name = unquote(match[1])
        if name not in self._models:
            raise RequestError(404, f"Model {name} is not loaded yet.")
        return name, self._models[name]

    async def _load_model(self, name: str, url: str) -> None:
        began = time.monotonic()
        if name in self._unloading:
            await asyncio.wait([self._unloading[name]])
        in_loader = partial(asyncio.get_running_loop().run_in_executor, self._loaders)
        found = await in_loader(_found, name, url, self._root)
        model = LoadedModel(url, servables_of(found))
        fault = None
        is_open = False
        try:
            with self._memory_for(name, found):
                await in_loader(model.open, self._load, self._threads, self._common)
            is_open = True
        except (MemoryError, ModelError, ToolkitError, OSError) as error:
            no_memory = isinstance(error, MemoryError) or _EXHAUSTED in str(error)
            fault = RequestError(_NO_MEMORY if no_memory else 400, str(error) or "not enough memory")
        finally:
            # Not while there is the error, which holds what is to be given back.
            if not is_open:
                await model.close()
        if fault is not None:
            raise fault
        self._registry.put(model.servables)
        self._models[name] = model
        versions = ", ".join(str(servable.version) for servable in model.servables)
        log.info("model %s is loaded from %s, versions %s (%.3f s)", name, url, versions, time.monotonic() - began)

    @contextlib.contextmanager
    def _memory_for(self, name: str, found: FoundModel) -> Iterator[None]:
        """Within, no other model is given the memory that this one needs. Raises RequestError."""
        needed = int(sum(map(_size, found.versions.values())) * _MEMORY_PER_BYTE) + _RESERVE_BYTES
        available = available_memory()
        if available is not None and needed + self._promised > available:
            left = max(0, available - self._promised)
            message = f"model {name} needs about {needed >> 20} MiB of memory, and {left >> 20} MiB are left"
            raise RequestError(_NO_MEMORY, message)
        self._promised += needed
        try:
            yield
        finally:
            self._promised -= needed

    async def _unload_model(self, name: str, model: LoadedModel) -> None:
        # Until then handlers of requests that are at work find the model.
        await model.idle()
        self._registry.remove(name)
        await model.close()
        log.info("model %s is unloaded", name)


async def _done(tasks: dict[str, asyncio.Task[None]], name: str, work: Coroutine[Any, Any, None]) -> None:
    """Return when the work is done, as what ``tasks`` has for that name; it goes on when the caller is cancelled."""
    task = tasks[name] = asyncio.get_running_loop().create_task(work)

    def end(task: asyncio.Task[None]) -> None:
        del tasks[name]
        # Whoever asked for it may have gone.
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("model %s: %s", name, error)

    task.add_done_callback(end)
    await asyncio.shield(task)


async def _nameless(request: Request, match: re.Match[str] | None) -> Response:
    raise invalid("Invocation request does not contain model name.")


def _asked(document: Any) -> tuple[str, str]:
    """The name and the place of the model to load."""
    values = document if isinstance(document, dict) else {}
    name, url = values.get("model_name"), values.get("url")
    if not isinstance(name, str) or not isinstance(url, str):
        raise invalid("expected a JSON object with the strings model_name and url")
    if not custom_attributes.MODEL_NAME.fullmatch(name):
        raise invalid("invalid model_name")
    return name, url


def _found(name: str, url: str, root: Path) -> FoundModel:
    """The model at that place. Raises RequestError."""
    folder = Path(os.path.normpath(url))
    if "\0" in url or not folder.is_relative_to(root):
        raise invalid(f"url is {url!r}; expected a folder below {root}")
    try:
        models = list(find_models(folder).values())
    except ModelError as error:
        message = f"Could not find valid base path {url} for servable {name}: {error}"
        raise RequestError(404, message) from error
    if len(models) > 1:
        raise invalid(f"{url} holds more than one model: {', '.join(str(model.base_path) for model in models)}")
    return models[0]._replace(name=name)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _described(name: str, model: LoadedModel) -> dict[str, str]:
    return {"modelName": name, "modelUrl": model.url}


def _success(message: str) -> Response:
    return Response(orjson.dumps({"success": message}))
