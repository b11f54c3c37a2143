"""A time that moves, and hardly ever comes."""

from __future__ import annotations

import asyncio

from conftest import DEADLINE
from tf_toolkit.serving.deadline import Deadline


def test_it_calls_once_at_the_last_time_that_was_set() -> None:
    async def run() -> list[float]:
        loop = asyncio.get_running_loop()
        calls: list[float] = []
        done = asyncio.Event()

        def call() -> None:
            calls.append(loop.time() - began)
            done.set()

        deadline = Deadline(loop, call)
        began = loop.time()
        # Later, at first; then earlier than its timer; and later than that again.
        deadline.set(1000)
        deadline.set(0.01)
        deadline.set(0.1)
        await asyncio.wait_for(done.wait(), DEADLINE)
        # Were there another timer left, this would find it.
        other = Deadline(loop, done.set)
        done.clear()
        other.set(0.1)
        await asyncio.wait_for(done.wait(), DEADLINE)
        return calls

    (call,) = asyncio.run(run())
    assert call >= 0.1


def test_cleared_or_closed_it_does_not_call() -> None:
    async def run() -> list[str]:
        loop = asyncio.get_running_loop()
        calls: list[str] = []
        done = asyncio.Event()
        cleared, closed = (
            Deadline(loop, lambda: calls.append("cleared")),
            Deadline(loop, lambda: calls.append("closed")),
        )
        cleared.set(0.01)
        cleared.clear()
        closed.set(0.01)
        closed.close()
        last = Deadline(loop, done.set)
        last.set(0.1)
        await asyncio.wait_for(done.wait(), DEADLINE)
        # It can be set again.
        cleared.set(0.01)
        done.clear()
        last.set(0.1)
        await asyncio.wait_for(done.wait(), DEADLINE)
        return calls

    assert asyncio.run(run()) == ["cleared"]
