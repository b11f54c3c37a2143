"""Coroutines that go on after their first wait without a task."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from conftest import DEADLINE
from tf_toolkit.serving.coroutine_run import CoroutineRun


def begun(coroutine: Coroutine[Any, Any, Any]) -> tuple[CoroutineRun[Any], asyncio.Future[Any]]:
    """One that waits for the first time, and what it is going to return."""
    result = asyncio.get_running_loop().create_future()
    return CoroutineRun(coroutine, coroutine.send(None), result.set_result), result


def test_it_goes_on_when_what_it_waits_for_is_there() -> None:
    async def waits(first: asyncio.Future[int], second: asyncio.Future[int]) -> int:
        return await first + await second

    async def run() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        _, result = begun(waits(first, second))
        first.set_result(1)
        await asyncio.sleep(0)
        assert not result.done()
        second.set_result(2)
        assert await asyncio.wait_for(result, DEADLINE) == 3

    asyncio.run(run())


def test_it_may_let_others_have_their_turn() -> None:
    async def waits() -> int:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return 5

    async def run() -> None:
        _, result = begun(waits())
        assert await asyncio.wait_for(result, DEADLINE) == 5

    asyncio.run(run())


def test_it_hears_of_errors_and_of_being_cancelled_and_may_wait_again() -> None:
    async def waits(fails: asyncio.Future[int]) -> list[str]:
        heard = []
        try:
            await fails
        except ValueError as error:
            heard.append(str(error))
        try:
            await asyncio.shield(asyncio.get_running_loop().create_future())
        except asyncio.CancelledError:
            heard.append("cancelled")
        await asyncio.sleep(0)
        return heard

    async def run() -> None:
        fails = asyncio.get_running_loop().create_future()
        started, result = begun(waits(fails))
        fails.set_exception(ValueError("no"))
        # What it waits for has happened, and it has not heard of it: there is nothing to cancel.
        assert not started.cancel()
        await asyncio.sleep(0)
        assert started.cancel()
        assert await asyncio.wait_for(result, DEADLINE) == ["no", "cancelled"]

    asyncio.run(run())
