"""A coroutine that goes on after its first wait, which most that answer requests never come to, without a task.

A task would cost more than a small model's run. Within such a coroutine ``asyncio.current_task`` is not its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

_Result = TypeVar("_Result")


class CoroutineRun(Generic[_Result]):
    """The rest of one, whose first ``send`` gave ``waits_for``; what it returns is told by ``then``."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, _Result], waits_for: Any, then: Callable[[_Result], None]
    ) -> None:
        self._coroutine = coroutine
        self._then = then
        self._wait(waits_for)

    def cancel(self, msg: str | None = None) -> bool:
        """As a task's: what it waits for is cancelled, and it hears of that. Not while it waits for nothing."""
        return self._waits_for.cancel(msg)

    def _wait(self, waits_for: Any) -> None:
        if waits_for is None:
            # It only lets others have their turn.
            loop = asyncio.get_running_loop()
            waits_for = loop.create_future()
            loop.call_soon(_end, waits_for)
        else:
            # What a task does to tell that it has seen it.
            waits_for._asyncio_future_blocking = False
        self._waits_for: asyncio.Future[Any] = waits_for
        waits_for.add_done_callback(self._step)

    def _step(self, done: asyncio.Future[Any]) -> None:
        try:
            waits_for = self._coroutine.send(None)
        except StopIteration as end:
            self._then(end.value)
        else:
            self._wait(waits_for)


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
