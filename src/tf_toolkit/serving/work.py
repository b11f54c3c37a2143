"""Where the server's own work is done: what takes long is no business of the thread that answers /ping."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar

from tf_toolkit.serving.engine import Array

_Result = TypeVar("_Result")

# Of text or arrays; up to here the work takes a few milliseconds, and less than many a hand-over to a thread.
FEW_BYTES = 500_000
_LOCK = threading.Lock()
_making = 0


def size(arrays: Mapping[str, Array]) -> int:
    """Bytes of these arrays, with those of their strings."""
    total = 0
    for array in arrays.values():
        total += array.nbytes
        if array.dtype.hasobject:
            total += sum(map(len, array.ravel().tolist()))
    return total


async def off_the_loop(work: Callable[[], _Result]) -> _Result:
    """What ``work`` returns, done in another thread, as is due where it goes over more than FEW_BYTES."""
    return await in_thread(partial(_of_many_objects, work))


async def in_thread(work: Callable[[], _Result]) -> _Result:
    """What ``work`` returns, done in another thread."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


def _of_many_objects(work: Callable[[], _Result]) -> _Result:
    with _no_search_for_garbage():
        return work()


@contextlib.contextmanager
def _no_search_for_garbage() -> Iterator[None]:
    """Within, Python looks for none: a large JSON body is millions of lists, none of which is garbage, and while the
    parser makes them, no other thread can do anything.
    """
    global _making
    with _LOCK:
        _making += 1
        gc.disable()
    try:
        yield
    finally:
        with _LOCK:
            _making -= 1
            if not _making:
                gc.enable()
