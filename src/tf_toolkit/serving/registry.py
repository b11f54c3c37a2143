"""Which versions of which models there are, what state each is in, and which of them answers a request."""

from __future__ import annotations

import asyncio
import enum
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tf_toolkit.serving.engine import Array, Engine
from tf_toolkit.serving.errors import ModelError, ModelRunError, RequestError, invalid
from tf_toolkit.serving.models import FoundModel
from tf_toolkit.serving.work import in_thread


class State(enum.Enum):
    """TensorFlow Serving's numbers and names."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class Runner(Protocol):
    """What runs requests on an engine."""

    async def run(
        self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]: ...

    def close(self) -> None: ...


Load = Callable[[Path], "tuple[Engine, Runner]"]


class Servable:
    """One version of a model."""

    def __init__(self, name: str, version: int, directory: Path) -> None:
        self.name = name
        self.version = version
        self.directory = directory
        self.state = State.START
        # Why it ended, where it could not be loaded.
        self.error = ""
        # When it last answered, on the monotonic clock.
        self.answered = 0.0
        self._engine: Engine | None = None
        self._runner: Runner | None = None
        self._running = 0
        # While it is being unloaded.
        self._ended: asyncio.Event | None = None

    def __str__(self) -> str:
        return f"version {self.version} of model {self.name}"

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            raise self._not_found()
        return self._engine

    def _not_found(self) -> RequestError:
        return RequestError(404, f"Servable not found for request: Specific({self.name}, {self.version})")

    async def run(
        self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """See Engine.run."""
        runner = self._runner
        if runner is None:
            raise self._not_found()
        self._running += 1
        try:
            answer = await runner.run(signature, inputs, outputs)
        except ModelRunError as error:
            signatures = self.engine.signatures
            if signature not in signatures:
                raise
            # With numpy, which is not to be waited for at the start.
            from tf_toolkit.serving.expectation import explained

            raise explained(error, signature, signatures[signature], inputs) from None
        finally:
            self._running -= 1
            if self._ended is not None:
                self._end_if_idle(self._ended)
        self.answered = time.monotonic()
        return answer

    def load(self, load: Load) -> None:
        """Load it, and return when it answers. Raises ModelError."""
        self.state = State.LOADING
        try:
            self._engine, self._runner = load(self.directory)
        except BaseException as error:
            self.error = str(error)
            self.state = State.END
            raise
        self.answered = time.monotonic()
        self.state = State.AVAILABLE

    async def unload(self) -> None:
        """Answer no new request, and return when what runs has ended and the memory is given back."""
        self.state = State.UNLOADING
        self._ended = asyncio.Event()
        if self._runner is not None:
            self._runner.close()
        self._end_if_idle(self._ended)
        await self._ended.wait()
        engine, self._engine, self._runner = self._engine, None, None
        self.state = State.END
        if engine is not None:
            await in_thread(engine.close)

    def _end_if_idle(self, ended: asyncio.Event) -> None:
        if not self._running:
            ended.set()


def servables_of(found: FoundModel) -> tuple[Servable, ...]:
    """The model's versions, the newest first, none of them loaded."""
    numbers = sorted(found.versions, reverse=True)
    return tuple(Servable(found.name, number, found.versions[number]) for number in numbers)


class Registry:
    """All models. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By name, and then by version, the newest first. Replaced, never changed, so that who reads needs no lock.
        self._models: Mapping[str, Mapping[int, Servable]] = {}

    def __iter__(self) -> Iterator[Servable]:
        for versions in self._models.values():
            yield from versions.values()

    def add(self, found: FoundModel) -> tuple[Servable, ...]:
        """The model's versions, the newest first, none of them loaded. Raises ModelError for a name that is taken."""
        servables = servables_of(found)
        self.put(servables)
        return servables

    def put(self, servables: Sequence[Servable]) -> None:
        """Versions of one model, the newest first. Raises ModelError for a name that is taken."""
        name = servables[0].name
        with self._lock:
            if name in self._models:
                raise ModelError(f"there is a model named {name!r} already")
            self._models = {**self._models, name: {servable.version: servable for servable in servables}}

    def remove(self, name: str) -> tuple[Servable, ...]:
        """The versions of a model, which is no longer to be found; none where there is no such model."""
        with self._lock:
            gone = self._models.get(name, {})
            self._models = {other: versions for other, versions in self._models.items() if other != name}
        return tuple(gone.values())

    def names(self) -> tuple[str, ...]:
        return tuple(self._models)

    def versions(self, name: str, version: int | None = None, label: str | None = None) -> tuple[Servable, ...]:
        """All versions of a model, the newest first, or the one asked for. Raises RequestError where there is none."""
        versions = self._models.get(name, {})
        if version is None and not versions:
            raise RequestError(404, f"Could not find any versions of model {name}")
        if version is not None and version not in versions:
            raise RequestError(404, f"Could not find version {version} of model {name}")
        if label is not None:
            raise _no_label(label)
        return tuple(versions.values()) if version is None else (versions[version],)

    def servable(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """The version that answers: the one asked for, or the newest. Raises RequestError where none does."""
        versions = self._models.get(name, {})
        wanted: Iterable[Servable | None] = versions.values() if version is None else (versions.get(version),)
        for servable in wanted:
            if servable is not None and servable.state is State.AVAILABLE:
                if label is not None:
                    raise _no_label(label)
                return servable
        asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise RequestError(404, f"Servable not found for request: {asked}")


def _no_label(label: str) -> RequestError:
    """Labels are given to versions in TensorFlow Serving's own configuration, which is not read here."""
    return invalid(f"Unrecognized servable version label: {label}")
