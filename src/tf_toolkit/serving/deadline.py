"""A time by which something must have happened, that moves with each request and hardly ever comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """Calls back when its time has come. A later time, and none, take no timer: the one that there is looks again."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._time: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """So many seconds from now."""
        self._time = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._time:
            self.close()
        if self._timer is None:
            self._timer = self._loop.call_at(self._time, self._look)

    def clear(self) -> None:
        """There is no such time."""
        self._time = None

    def close(self) -> None:
        """It will never be looked at again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._time is None:
            return
        if self._loop.time() < self._time:
            self._timer = self._loop.call_at(self._time, self._look)
        else:
            self._time = None
            self._callback()
