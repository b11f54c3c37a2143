"""One line of JSON on standard output for each request, but none for a /ping that went well."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from functools import lru_cache

import orjson

# Lines are made and go out together: one write for each request would cost as much as a small model. But no more at
# once than a request hardly notices which comes in the meantime.
_SECONDS = 0.05
_LINES = 32
_LONGEST_PATH = 1000

# When it was answered, and what ``add`` is told.
_Entry = tuple[float, str, str, int, float, int, int]


class AccessLog:
    """For the server's event loop alone, which waits for whoever reads standard output."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._entries: list[_Entry] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, method: str, path: str, status: int, seconds: float, received: int, sent: int) -> None:
        """A request that was answered, or whose client went away before (status 499); sizes are of bodies."""
        if not self._enabled:
            return
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SECONDS, self._flush_in_time)
        self._entries.append((time.time(), method, path[:_LONGEST_PATH], status, seconds, received, sent))
        if len(self._entries) == _LINES:
            # When this one has its answer.
            asyncio.get_running_loop().call_soon(self.flush)

    def _flush_in_time(self) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        data, self._entries = "".join(map(_line, self._entries)).encode(), []
        # Whoever read it may be gone; the server is not there for its log.
        with suppress(OSError):
            while data:
                data = data[os.write(1, data) :]


def _line(entry: _Entry) -> str:
    now, method, path, status, seconds, received, sent = entry
    return (
        f'{{"time":"{_second(int(now))}.{int(now % 1 * 1000):03d}Z",{_asked(method, path)},"status":{status},'
        f'"ms":{seconds * 1000:.3f},"received":{received},"sent":{sent}}}\n'
    )


# Most requests are for the same.
@lru_cache(maxsize=100)
def _asked(method: str, path: str) -> str:
    return orjson.dumps({"method": method, "path": path}).decode()[1:-1]


@lru_cache(maxsize=1)
def _second(now: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
