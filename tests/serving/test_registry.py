"""Which versions there are, and which of them answers. No model is loaded: an engine here only says that it is one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import ModelError, RequestError
from tf_toolkit.serving.models import FoundModel
from tf_toolkit.serving.registry import Registry, Servable, State
from tf_toolkit.serving.signature import Signature


class Loaded:
    """Engine and runner in one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.closed = 0

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return {}

    def run(self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1


def load(directory: Path) -> tuple[Any, Any]:
    if directory.name == "13":
        raise ModelError(f"{directory}: cannot be loaded")
    return Loaded(directory), Loaded(directory)


def model(name: str, *versions: int) -> FoundModel:
    base = Path("/models") / name
    return FoundModel(name, base, {version: base / str(version) for version in versions}, ())


def available(registry: Registry, found: FoundModel) -> tuple[Servable, ...]:
    servables = registry.add(found)
    for servable in servables:
        servable.load(load)
    return servables


def refusal(call: Any) -> tuple[int, str]:
    with pytest.raises(RequestError) as raised:
        call()
    return raised.value.status, raised.value.message


def test_the_newest_version_answers_unless_another_is_asked_for() -> None:
    registry = Registry()
    available(registry, model("m", 2, 10, 9))
    assert registry.servable("m").version == 10
    assert registry.servable("m", 2).version == 2
    assert [servable.version for servable in registry.versions("m")] == [10, 9, 2]
    assert [servable.version for servable in registry.versions("m", 9)] == [9]


def test_what_is_not_there_is_refused_in_the_words_of_tensorflow_serving() -> None:
    registry = Registry()
    available(registry, model("m", 1))
    assert refusal(lambda: registry.servable("n")) == (404, "Servable not found for request: Latest(n)")
    assert refusal(lambda: registry.servable("m", 5)) == (404, "Servable not found for request: Specific(m, 5)")
    assert refusal(lambda: registry.versions("n")) == (404, "Could not find any versions of model n")
    assert refusal(lambda: registry.versions("m", 5)) == (404, "Could not find version 5 of model m")
    assert refusal(lambda: registry.servable("m", label="x")) == (400, "Unrecognized servable version label: x")


def test_a_version_goes_through_its_states() -> None:
    registry = Registry()
    (servable,) = registry.add(model("m", 1))
    states = [servable.state]
    assert refusal(lambda: registry.servable("m"))[0] == 404

    def slowly(directory: Path) -> tuple[Any, Any]:
        states.append(servable.state)
        return load(directory)

    servable.load(slowly)
    states.append(servable.state)
    assert registry.servable("m") is servable
    asyncio.run(servable.unload())
    states.append(servable.state)
    assert states == [State.START, State.LOADING, State.AVAILABLE, State.END]
    assert refusal(lambda: registry.servable("m"))[0] == 404
    assert refusal(lambda: servable.engine)[0] == 404


def test_an_older_version_answers_while_the_newest_is_loading() -> None:
    registry = Registry()
    newest, oldest = registry.add(model("m", 1, 2))
    oldest.load(load)
    assert registry.servable("m").version == 1
    newest.load(load)
    assert registry.servable("m").version == 2


def test_one_that_cannot_be_loaded_says_why() -> None:
    registry = Registry()
    (servable,) = registry.add(model("m", 13))
    with pytest.raises(ModelError):
        servable.load(load)
    assert servable.state is State.END
    assert servable.error == "/models/m/13: cannot be loaded"


def test_a_name_is_given_once() -> None:
    registry = Registry()
    registry.add(model("m", 1))
    with pytest.raises(ModelError, match="there is a model named 'm' already"):
        registry.add(model("m", 2))
    assert [servable.version for servable in registry.remove("m")] == [1]
    assert registry.remove("m") == ()
    registry.add(model("m", 2))


def test_threads_that_add_one_name_at_once_get_it_once() -> None:
    registry = Registry()
    barrier = threading.Barrier(8)
    added: list[int] = []

    def add(number: int) -> None:
        barrier.wait(60)
        registry.add(model(f"other{number}", 1))
        try:
            registry.add(model("m", number))
        except ModelError:
            return
        added.append(number)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(added) == 1
    assert sorted(registry.names()) == ["m", *(f"other{number}" for number in range(8))]
