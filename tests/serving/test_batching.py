"""Requests that run together: who gets which answer, who pays for whose fault, and what never waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import DEADLINE
from tf_toolkit.serving import c_api
from tf_toolkit.serving.batching import Batcher
from tf_toolkit.serving.errors import ModelRunError
from tf_toolkit.serving.loop_pass import LoopPass
from tf_toolkit.serving.runner import Runner
from tf_toolkit.serving.settings import Batching
from tf_toolkit.serving.signature import DataType, Signature, TensorInfo

Inputs = Mapping[str, Any]


class Doubles:
    """A model whose work takes as long as the test holds it up, and that refuses negative numbers."""

    def __init__(self) -> None:
        rows = TensorInfo("x:0", DataType.DT_FLOAT, (-1, 2))
        total = TensorInfo("total:0", DataType.DT_FLOAT, (-1,))
        self.signatures = {
            "rows": Signature({"x": rows}, {"y": rows}, ""),
            "total": Signature({"x": rows}, {"total": total}, ""),
        }
        self.began = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.batches: list[int] = []

    def run(self, signature: str, inputs: Inputs, outputs: Sequence[str] | None = None) -> dict[str, Any]:
        x = np.atleast_1d(inputs["x"])
        self.batches.append(len(x))
        self.began.release()
        assert self.may_end.acquire(timeout=DEADLINE)
        if (x < 0).any():
            raise ModelRunError("INVALID_ARGUMENT", "negative")
        return {"total": np.array(x.sum())} if signature == "total" else {"y": 2 * x}

    def close(self) -> None:
        """There is nothing to free."""


@pytest.fixture
def model() -> Doubles:
    return Doubles()


@pytest.fixture
def batcher(model: Doubles) -> Iterator[Callable[..., Batcher]]:
    """Makes batchers of one thread, and ends them."""
    made: list[Batcher] = []

    def make(
        size: int = 8, timeout_micros: int = 0, most: int = 100, threads: int = 1, trusting: bool = True
    ) -> Batcher:
        made.append(Batcher(model, size, timeout_micros, most, threads, trusting))
        return made[-1]

    yield make
    model.may_end.release(1000)
    for each in made:
        each.close()


def rows(*firsts: float) -> Inputs:
    return {"x": np.array([[first, 1] for first in firsts], np.float32).reshape(-1, 2)}


def held_up(model: Doubles, batcher: Batcher) -> Future[dict[str, Any]]:
    """A request that runs until ``may_end``; what comes after it waits."""
    first = batcher.submit("rows", rows(100), None)
    assert model.began.acquire(timeout=DEADLINE)
    return first


def firsts(answer: Future[dict[str, Any]]) -> list[float]:
    found: list[float] = answer.result(DEADLINE)["y"][:, 0].tolist()
    return found


def test_what_waits_runs_together_and_each_gets_its_own(model: Doubles, batcher: Callable[..., Batcher]) -> None:
    requests = batcher()
    first = held_up(model, requests)
    others = [requests.submit("rows", rows(*values), None) for values in ((1,), (2, 3), (), (4, 5, 6))]
    model.may_end.release(2)

    assert firsts(first) == [200]
    assert [firsts(other) for other in others] == [[2], [4, 6], [], [8, 10, 12]]
    assert model.batches == [1, 6]


def test_a_batch_has_no_more_rows_than_it_may(model: Doubles, batcher: Callable[..., Batcher]) -> None:
    requests = batcher(size=4)
    held_up(model, requests)
    others = [requests.submit("rows", rows(*range(size)), None) for size in (3, 2, 2, 9, 1)]
    model.may_end.release(10)

    assert [len(firsts(other)) for other in others] == [3, 2, 2, 9, 1]
    # What is too large for any batch runs alone.
    assert model.batches == [1, 3, 4, 9, 1]


def test_only_what_is_alike_runs_together(model: Doubles, batcher: Callable[..., Batcher]) -> None:
    requests = batcher()
    held_up(model, requests)
    wide = {"x": np.ones((1, 3), np.float32)}
    double = {"x": np.ones((1, 2))}
    others = [
        requests.submit("rows", inputs, outputs)
        for inputs, outputs in ((rows(1), None), (wide, None), (double, None), (rows(1), ["y"]), (rows(2), None))
    ]
    model.may_end.release(10)

    assert [len(firsts(other)) for other in others] == [1] * 5
    assert model.batches == [1, 2, 1, 1, 1]


def test_who_is_to_blame_gets_the_error(model: Doubles, batcher: Callable[..., Batcher]) -> None:
    requests = batcher()
    held_up(model, requests)
    good, bad, other = (requests.submit("rows", rows(value), None) for value in (1, -1, 2))
    model.may_end.release(10)

    assert (firsts(good), firsts(other)) == ([2], [4])
    with pytest.raises(ModelRunError, match="negative"):
        bad.result(DEADLINE)


@pytest.mark.parametrize("trusting", [True, False])
def test_what_comes_out_without_rows_is_computed_for_each(
    model: Doubles, batcher: Callable[..., Batcher], trusting: bool
) -> None:
    requests = batcher(trusting=trusting)
    for _ in range(2):
        held_up(model, requests)
        others = [requests.submit("total", rows(*values), None) for values in ((1,), (2, 3))]
        model.may_end.release(10)
        assert [other.result(DEADLINE)["total"].tolist() for other in others] == [2, 7]

    # It is tried once.
    assert model.batches == [1, 3, 1, 2, 1, 1, 2]


def test_equal_requests_are_tried_alone_a_few_times_and_prove_nothing_of_others(
    model: Doubles, batcher: Callable[..., Batcher]
) -> None:
    requests = batcher(trusting=False)
    for values, ran in (((1, 1), [2, 1]), ((1, 1), [2, 1]), ((1, 1), [2, 1]), ((1, 1), [2]), ((1, 2), [2, 1])):
        model.began = threading.Semaphore(0)
        held_up(model, requests)
        model.batches.clear()
        others = [requests.submit("rows", rows(value), None) for value in values]
        model.may_end.release(1 + len(ran))

        assert [firsts(other) for other in others] == [[2 * value] for value in values]
        assert model.batches == ran


def test_a_full_queue(model: Doubles, batcher: Callable[..., Batcher]) -> None:
    requests = batcher(size=2, most=2)
    held_up(model, requests)
    waiting = [requests.submit("rows", rows(number), None) for number in range(4)]

    with pytest.raises(
        ModelRunError, match="The batch scheduling queue to which this task was submitted is full"
    ) as full:
        requests.submit("rows", rows(5), None)
    assert (full.value.code, full.value.status) == ("UNAVAILABLE", 503)
    model.may_end.release(10)
    assert [firsts(answer) for answer in waiting] == [[0], [2], [4], [6]]


def test_who_no_longer_waits_is_left_out(model: Doubles, batcher: Callable[..., Batcher]) -> None:
    requests = batcher()
    held_up(model, requests)
    gone, here, also = (requests.submit("rows", rows(value), None) for value in (1, 2, 3))
    assert gone.cancel()
    model.may_end.release(10)

    assert (firsts(here), firsts(also)) == ([4], [6])
    assert model.batches == [1, 2]


def test_a_timer_holds_the_first_back_until_the_batch_is_full(model: Doubles, batcher: Callable[..., Batcher]) -> None:
    requests = batcher(size=3, timeout_micros=int(DEADLINE * 1e6))
    model.may_end.release(10)
    answers = [requests.submit("rows", rows(number), None) for number in range(2)]

    # What can be with no other need not wait for one.
    assert requests.submit("rows", {"x": np.array(1, np.float32)}, None).result(DEADLINE / 2)
    answers.append(requests.submit("rows", rows(2), None))
    assert [firsts(answer) for answer in answers] == [[0], [2], [4]]
    assert model.batches == [1, 3]


def test_a_timer_ends(model: Doubles, batcher: Callable[..., Batcher]) -> None:
    requests = batcher(timeout_micros=1000)
    model.may_end.release(10)

    assert firsts(requests.submit("rows", rows(1), None)) == [2]


def test_what_waits_when_it_is_closed_is_answered(model: Doubles, batcher: Callable[..., Batcher]) -> None:
    """And closing waits for nothing, for it is done on the event loop."""
    requests = batcher(timeout_micros=int(DEADLINE * 1e6), size=2)
    running = requests.submit("rows", rows(100, 101), None)
    waiting = requests.submit("rows", rows(1), None)
    requests.close()
    model.may_end.release(10)

    assert (firsts(running), firsts(waiting)) == ([200, 202], [2])
    with pytest.raises(ModelRunError, match="the model is being unloaded"):
        requests.submit("rows", rows(2), None)


UNSET = Batching(enabled=None, max_batch_size=8, timeout_micros=1000, threads=2, max_enqueued_batches=2)
ON = Batching(enabled=True, max_batch_size=16, timeout_micros=500, threads=2, max_enqueued_batches=1000)


def test_batching_that_is_turned_off(model: Doubles) -> None:
    runner = Runner(model, UNSET._replace(enabled=False))
    model.may_end.release(1000)

    answers = asyncio.run(all_of(runner, "rows", [rows(number) for number in range(200)]))

    assert [answer["y"][0, 0] for answer in answers] == [2 * number for number in range(200)]
    assert set(model.batches) == {1}
    runner.close()


async def all_of(runner: Runner, signature: str, requests: Sequence[Inputs]) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(runner.run(signature, inputs) for inputs in requests)))


@pytest.mark.parametrize("batching", [UNSET, ON])
@pytest.mark.parametrize(
    ("name", "signature"),
    [("weights", "serving_default"), ("digits", "serving_default"), ("many", "rows"), ("many", "shout")],
)
def test_real_models_answer_the_same_alone_and_together(
    saved_models: Path, batching: Batching, name: str, signature: str
) -> None:
    engine = c_api.load(saved_models / name / "1")
    runner = Runner(engine, batching)
    random = np.random.default_rng(0)
    requests: list[Inputs] = []
    for _ in range(200):
        size = int(random.integers(1, 4))
        requests.append(
            {
                key: np.array([b"%d" % number for number in random.integers(0, 1000, size)], object)
                if info.dtype == DataType.DT_STRING
                else random.integers(0, 100, (size, *(info.shape or ())[1:])).astype(
                    "float32" if info.dtype == DataType.DT_FLOAT else "int64"
                )
                for key, info in engine.signatures[signature].inputs.items()
            }
        )

    answers = asyncio.run(all_of(runner, signature, requests))

    for inputs, answer in zip(requests, answers):
        for key, expected in engine.run(signature, inputs).items():
            assert answer[key].dtype == expected.dtype
            if expected.dtype == object:
                assert answer[key].tolist() == expected.tolist()
            else:
                np.testing.assert_allclose(answer[key], expected, rtol=1e-3, atol=1e-2)
    runner.close()


@pytest.mark.parametrize("signature", ["centred", "mean", "scaled"])
def test_a_model_whose_rows_are_not_each_for_itself_is_not_batched(saved_models: Path, signature: str) -> None:
    engine = c_api.load(saved_models / "many" / "1")
    runner = Runner(engine, UNSET)
    all_shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "centred": {"a": (3,)},
        "mean": {"a": (2, 3)},
        "scaled": {"a": (2, 5), "factor": ()},
    }
    random = np.random.default_rng(0)
    requests = [
        {key: random.normal(size=shape).astype(np.float32) for key, shape in all_shapes[signature].items()}
        for _ in range(200)
    ]

    answers = asyncio.run(all_of(runner, signature, requests))

    for inputs, answer in zip(requests, answers):
        for key, expected in engine.run(signature, inputs).items():
            np.testing.assert_allclose(answer[key], expected, rtol=1e-3, atol=1e-5)
    runner.close()


def test_errors_of_real_models(saved_models: Path) -> None:
    runner = Runner(c_api.load(saved_models / "many" / "1"), UNSET)
    requests: list[Inputs] = [{"a": np.array([number % 5 - 1], np.float32)} for number in range(100)]

    async def run() -> list[Any]:
        return await asyncio.gather(*(runner.run("positive", each) for each in requests), return_exceptions=True)

    for number, answer in enumerate(asyncio.run(run())):
        if number % 5:
            assert answer["root"].tolist() == [np.sqrt(np.float32(number % 5 - 1))]
        else:
            assert isinstance(answer, ModelRunError)
    with pytest.raises(ModelRunError, match="not found in signature def"):
        asyncio.run(runner.run("negative", {}))
    runner.close()


def test_a_slow_model_does_not_hold_up_the_event_loop(model: Doubles) -> None:
    runner = Runner(model, UNSET)

    async def run() -> list[float]:
        request = asyncio.ensure_future(runner.run("rows", rows(1)))
        # This goes on while the model runs: else it would never be let go.
        deadline = time.monotonic() + DEADLINE
        while not model.began.acquire(blocking=False):
            assert time.monotonic() < deadline
            await asyncio.sleep(0)
        model.may_end.release()
        found: list[float] = (await request)["y"][:, 0].tolist()
        return found

    assert asyncio.run(run()) == [2]
    runner.close()


def test_whoever_stops_waiting_stops_no_other(model: Doubles) -> None:
    runner = Runner(model, UNSET)

    async def run() -> list[float]:
        given_up = asyncio.ensure_future(runner.run("rows", rows(1)))
        stays = asyncio.ensure_future(runner.run("rows", rows(2)))
        await asyncio.sleep(0)
        given_up.cancel()
        model.may_end.release(10)
        found: list[float] = (await asyncio.wait_for(stays, DEADLINE))["y"][:, 0].tolist()
        return found

    assert asyncio.run(run()) == [4]
    runner.close()


def one_pass(batcher: Batcher, *requests: tuple[str, Inputs]) -> list[Any]:
    """What comes of requests that are there at once, of which the last is given up again."""

    async def run() -> list[Any]:
        loop_pass = LoopPass(batcher)
        answers = [loop_pass.run(signature, inputs, None) for signature, inputs in requests]
        answers[-1].cancel()
        return await asyncio.gather(*answers[:-1], return_exceptions=True)

    return asyncio.run(run())


def test_what_comes_in_one_pass_of_the_loop_runs_together(model: Doubles, batcher: Callable[..., Batcher]) -> None:
    model.may_end.release(1000)
    requests = [rows(1), rows(2, 3), rows(4), rows(5)]
    answers = one_pass(batcher(3), *(("rows", inputs) for inputs in requests))
    assert [answer["y"][:, 0].tolist() for answer in answers] == [[2], [4, 6], [8]]
    assert model.batches == [3, 1]


def test_in_a_pass_of_the_loop_who_is_to_blame_gets_the_error(model: Doubles, batcher: Callable[..., Batcher]) -> None:
    model.may_end.release(1000)
    good, bad, alone = one_pass(batcher(), ("rows", rows(1)), ("rows", rows(-1)), ("total", rows(3)), ("rows", rows(5)))
    assert good["y"][:, 0].tolist() == [2]
    assert isinstance(bad, ModelRunError)
    assert alone["total"] == 4


def test_who_keeps_coming_alone_does_not_wait_for_others_until_there_are_some(model: Doubles) -> None:
    model.may_end.release(1000)
    runner = Runner(model, UNSET)

    async def request() -> None:
        assert (await runner.run("rows", rows(1)))["y"][:, 0].tolist() == [2]

    async def waits() -> bool:
        """Whether a request waits for the end of the pass."""
        task = asyncio.ensure_future(request())
        await asyncio.sleep(0)
        waiting = not task.done()
        await task
        return waiting

    async def run() -> None:
        deadline = time.monotonic() + DEADLINE
        while await waits():
            assert time.monotonic() < deadline
        model.batches.clear()
        while 4 not in model.batches:
            assert time.monotonic() < deadline
            await asyncio.gather(*(request() for _ in range(4)))
        assert model.batches[0] == 1

    asyncio.run(run())
    runner.close()
