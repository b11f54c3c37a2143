"""A model of a server of many: its versions, the handlers beside them, and the requests that are at work with it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tf_toolkit.serving import model_code, model_modules
from tf_toolkit.serving.handler_threads import HandlerThreads
from tf_toolkit.serving.handlers import Handlers
from tf_toolkit.serving.model_code import ModelCode
from tf_toolkit.serving.registry import Load, Servable
from tf_toolkit.serving.work import in_thread


class LoadedModel:
    """For the event loop, but for :meth:`open`."""

    def __init__(self, url: str, servables: Sequence[Servable]) -> None:
        """``url`` is the folder that the model's archive was unpacked to; nothing is loaded yet."""
        self.url = url
        self.servables = servables
        # What answers its requests in place of the conversions.
        self.handlers: Handlers | None = None
        # Its own, which goes when it goes.
        self._code: ModelCode | None = None
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self, load: Load, threads: HandlerThreads, common: Handlers | None) -> None:
        """In a thread: import the model's handlers, else it has the common ones, and load its versions.

        Raises ModelError and ToolkitError; then, too, it is to be closed.
        """
        self._code = model_code.find_of_model(Path(os.path.normpath(self.url)), os.environ)
        self.handlers = common if self._code is None else Handlers(self._code, threads, apart=True)
        for servable in self.servables:
            servable.load(load)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Within, a request is at work with it."""
        self._requests += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    async def idle(self) -> None:
        """Return when no request is at work with it."""
        await self._idle.wait()

    async def close(self) -> None:
        """Give the memory back."""
        for servable in self.servables:
            await servable.unload()
        self.handlers = None
        await in_thread(self._give_memory_back)

    def _give_memory_back(self) -> None:
        if self._code is not None:
            model_modules.forget(self._code)
        # What is free within the process is free for the next model, but not for the machine.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
