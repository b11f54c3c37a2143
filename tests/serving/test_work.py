"""Work that takes long: in which thread it is done, and what Python does beside it."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from conftest import DEADLINE
from tf_toolkit.serving.work import in_thread, off_the_loop


def where() -> tuple[bool, bool]:
    """Whether this is the main thread, and whether Python looks for garbage."""
    return threading.current_thread() is threading.main_thread(), gc.isenabled()


def test_what_is_done_off_the_loop_makes_no_search_for_garbage() -> None:
    assert asyncio.run(off_the_loop(where)) == (False, False)
    assert asyncio.run(in_thread(where)) == (False, True)


def test_garbage_is_looked_for_when_the_last_has_ended() -> None:
    begun, may_end = threading.Semaphore(0), threading.Semaphore(0)

    def wait() -> bool:
        begun.release()
        assert may_end.acquire(timeout=DEADLINE)
        return gc.isenabled()

    def fail() -> None:
        assert begun.acquire(timeout=DEADLINE)
        raise MemoryError

    async def both() -> bool:
        waiting = asyncio.ensure_future(off_the_loop(wait))
        with pytest.raises(MemoryError):
            await off_the_loop(fail)
        may_end.release()
        return await waiting

    assert asyncio.run(both()) is False
    assert gc.isenabled()
