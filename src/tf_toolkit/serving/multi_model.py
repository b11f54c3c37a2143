"""Many models behind one endpoint, which the platform loads and unloads as they are asked for.

https://docs.aws.amazon.com/sagemaker/latest/dg/mms-container-apis.html
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson

from tf_toolkit.hardware import available_memory
from tf_toolkit.serving import custom_attributes
from tf_toolkit.serving.errors import ModelError, ModelRunError, RequestError, invalid
from tf_toolkit.serving.invocations import Invocations
from tf_toolkit.serving.json_text import parse
from tf_toolkit.serving.models import FoundModel, find_models
from tf_toolkit.serving.registry import Load, Registry, Servable, servables_of
from tf_toolkit.serving.request import Request, Response, refusal
from tf_toolkit.serving.routes import Route
from tf_toolkit.serving.settings import Settings
from tf_toolkit.serving.work import in_thread

log = logging.getLogger("tf_toolkit")

# What a model takes for each byte of its files, and what must be left for requests.
_MEMORY_PER_BYTE = 1.3
_RESERVE_BYTES = 64 << 20
_NO_MEMORY = 507
_EXHAUSTED = "RESOURCE_EXHAUSTED"
_MOST_DESCRIPTION_BYTES = 100_000


class _Model(NamedTuple):
    url: str
    servables: Sequence[Servable]


class MultiModel:
    """The endpoints. For the event loop alone."""

    def __init__(self, registry: Registry, invocations: Invocations, load: Load, settings: Settings) -> None:
        self._registry = registry
        self._invocations = invocations
        self._load = load
        # Where the platform puts models.
        self._root = settings.model_dir.parent
        self._models: dict[str, _Model] = {}
        # Names that are being loaded. A task whose request has timed out goes on.
        self._loading: dict[str, asyncio.Task[None]] = {}

    def routes(self) -> list[Route]:
        return [
            Route("/models", "/models", {"GET": self._list, "POST": self._create}),
            Route("/models/{name}", re.compile(r"/models/([^/]+)"), {"GET": self._describe, "DELETE": self._delete}),
            Route("/models/{name}/invoke", re.compile(r"/models/([^/]+)/invoke"), {"POST": self._invoke}),
            Route("/invocations", "/invocations", {"POST": _nameless}),
        ]

    async def _list(self, request: Request, match: re.Match[str] | None) -> Response:
        models = [_described(name, model) for name, model in sorted(self._models.items())]
        return Response(orjson.dumps({"models": models}))

    async def _create(self, request: Request, match: re.Match[str] | None) -> Response:
        name, url = _asked(parse(await request.body(_MOST_DESCRIPTION_BYTES)))
        request.model = name
        if name in self._models or name in self._loading:
            return refusal(409, f"Model {name} is already loaded.")
        task = self._loading[name] = asyncio.get_running_loop().create_task(self._load_model(name, url))
        task.add_done_callback(lambda _: self._loading.pop(name))
        await asyncio.shield(task)
        return _success(f"Successfully loaded model {name}.")

    async def _describe(self, request: Request, match: re.Match[str] | None) -> Response:
        name, model = self._known(match)
        return Response(orjson.dumps(_described(name, model)))

    async def _delete(self, request: Request, match: re.Match[str] | None) -> Response:
        name, model = self._known(match)
        del self._models[name]
        self._registry.remove(name)
        await asyncio.shield(_unloaded(model.servables))
        log.info("model %s is unloaded", name)
        return _success(f"Successfully unloaded model {name}.")

    async def _invoke(self, request: Request, match: re.Match[str] | None) -> Response:
        name, _ = self._known(match)
        try:
            return await self._invocations.invoke(request, name)
        except ModelRunError as error:
            if error.code != _EXHAUSTED:
                raise
            raise RequestError(_NO_MEMORY, error.message) from error

    def _known(self, match: re.Match[str] | None) -> tuple[str, _Model]:
        assert match is not None
        name = unquote(match[1])
        if name not in self._models:
            raise RequestError(404, f"Model {name} is not loaded yet.")
        return name, self._models[name]

    async def _load_model(self, name: str, url: str) -> None:
        began = time.monotonic()
        found = await in_thread(partial(_found, name, url, self._root))
        servables = servables_of(found)
        try:
            for servable in servables:
                await in_thread(partial(servable.load, self._load))
        except (MemoryError, ModelError) as error:
            await _unloaded([servable for servable in servables if not servable.error])
            no_memory = isinstance(error, MemoryError) or _EXHAUSTED in str(error)
            raise RequestError(_NO_MEMORY if no_memory else 400, str(error) or "not enough memory") from error
        self._registry.put(servables)
        self._models[name] = _Model(url, servables)
        versions = ", ".join(str(servable.version) for servable in servables)
        log.info("model %s is loaded from %s, versions %s (%.3f s)", name, url, versions, time.monotonic() - began)


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
    """The model at that place, if there is memory for it. Raises RequestError."""
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
    needed = int(sum(map(_size, models[0].versions.values())) * _MEMORY_PER_BYTE) + _RESERVE_BYTES
    available = available_memory()
    if available is not None and needed > available:
        message = f"model {name} needs about {needed >> 20} MiB of memory, and {available >> 20} MiB are left"
        raise RequestError(_NO_MEMORY, message)
    return models[0]._replace(name=name)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _described(name: str, model: _Model) -> dict[str, str]:
    return {"modelName": name, "modelUrl": model.url}


def _success(message: str) -> Response:
    return Response(orjson.dumps({"success": message}))


async def _unloaded(servables: Sequence[Servable]) -> None:
    for servable in servables:
        await servable.unload()
    # What is free within the process is free for the next model, but not for the machine.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        await in_thread(partial(trim, 0))
