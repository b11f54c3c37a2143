"""What /ping goes by: a model that has not answered of late is tried out, and what comes of it counts.

The engines here fail and hang when they are told to, which TensorFlow's do not.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import DEADLINE, wait_until
from signatures import FLOAT, default, tensor
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import ModelRunError
from tf_toolkit.serving.health import Health
from tf_toolkit.serving.models import FoundModel
from tf_toolkit.serving.registry import Registry, Servable
from tf_toolkit.serving.signature import Signature


class Sick:
    """An engine, and how it is."""

    def __init__(self) -> None:
        self.error: ModelRunError | None = None
        self.runs = 0
        self.goes_on = threading.Event()
        self.goes_on.set()

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return default({"x": tensor(FLOAT)})

    def run(self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Any:
        self.runs += 1
        self.goes_on.wait(DEADLINE)
        if self.error is not None:
            raise self.error
        return {}

    def close(self) -> None:
        pass


@pytest.fixture
def engine() -> Sick:
    return Sick()


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def servable(registry: Registry, engine: Sick) -> Servable:
    (servable,) = registry.add(FoundModel("m", Path("m"), {1: Path("m/1")}, ()))
    runner: Any = None
    servable.load(lambda directory: (engine, runner))
    return servable


def long_ago(servable: Servable) -> None:
    servable.answered -= 1000


def test_without_models_there_is_no_trouble(registry: Registry) -> None:
    assert Health(registry, 60).trouble() is None


def test_a_model_that_has_answered_of_late_is_not_tried(registry: Registry, servable: Servable, engine: Sick) -> None:
    assert Health(registry, 60).trouble() is None
    assert engine.runs == 0


def test_an_idle_model_is_tried_once_in_a_while(registry: Registry, servable: Servable, engine: Sick) -> None:
    health = Health(registry, 60)
    long_ago(servable)
    assert health.trouble() is None
    wait_until(lambda: engine.runs == 1, "it is tried")
    assert health.trouble() is None
    assert engine.runs == 1


def test_a_model_that_fails_is_trouble_until_it_answers(registry: Registry, servable: Servable, engine: Sick) -> None:
    health = Health(registry, 60)
    engine.error = ModelRunError("INTERNAL", "the device is gone")
    long_ago(servable)
    wait_until(lambda: health.trouble() == "version 1 of model m fails: the device is gone", "the failure counts")
    engine.error = None
    wait_until(lambda: health.trouble() is None, "it has answered again")


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "UNIMPLEMENTED"])
def test_a_model_that_refuses_zeros_has_answered(
    registry: Registry, servable: Servable, engine: Sick, code: str
) -> None:
    health = Health(registry, 60)
    engine.error = ModelRunError(code, "not zeros")
    long_ago(servable)
    before = servable.answered
    wait_until(lambda: health.trouble() is None and servable.answered > before, "the refusal counts as an answer")


def test_a_model_that_hangs_is_trouble(registry: Registry, servable: Servable, engine: Sick) -> None:
    health = Health(registry, 0.1)
    engine.goes_on.clear()
    long_ago(servable)
    wait_until(lambda: (health.trouble() or "").startswith("version 1 of model m has not answered for"), "it is told")
    assert engine.runs == 1
    engine.goes_on.set()
    wait_until(lambda: health.trouble() is None, "it has answered")


def test_a_model_that_is_not_loaded_is_trouble(registry: Registry) -> None:
    registry.add(FoundModel("n", Path("n"), {1: Path("n/1"), 2: Path("n/2")}, ()))
    assert Health(registry, 60).trouble() == (
        "version 2 of model n is in state START; version 1 of model n is in state START"
    )
