"""Where the server's own work is done: what takes long is no business of the thread that answers /ping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")

# Of text or arrays; up to here the work takes a few milliseconds, and less than many a hand-over to a thread.
_LARGE_BYTES = 500_000


async def off_the_loop(size: int, work: Callable[[], _Result]) -> _Result:
    """What ``work`` returns, done in another thread where it goes over many bytes."""
    if size < _LARGE_BYTES:
        return work()
    return await in_thread(work)


async def in_thread(work: Callable[[], _Result]) -> _Result:
    """What ``work`` returns, done in another thread."""
    return await asyncio.get_running_loop().run_in_executor(None, work)
