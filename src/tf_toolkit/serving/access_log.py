"""One line of JSON on standard output for each request, but none for a /ping that went well."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from functools import lru_cache

import orjson

# Lines are made and go out together: one write for each request would cost as much as a small model.
_SECONDS = 0.05
_LONGEST_PATH = 1000

# When it was answered, and what ``add`` is told.
_Entry = tuple[float, str, str, int, float, int, int]


class AccessLog:
    """For the server's event loop alone, which waits for whoever reads standard output."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._entries: list[_Entry] = []

    def add(self, method: str, path: str, status: int, seconds: float, received: int, sent: int) -> None:
        """A request that was answered, or whose client went away before (status 499); sizes are of bodies."""
        if not self._enabled:
            return
        if not self._entries:
            asyncio.get_running_loop().call_later(_SECONDS, self.flush)
        self._entries.append((time.time(), method, path[:_LONGEST_PATH], status, seconds, received, sent))

    def flush(self) -> None:
        """Write what is waiting."""
        data, self._entries = b"".join(map(_line, self._entries)), []
        # Whoever read it may be gone; the server is not there for its log.
        with suppress(OSError):
            while data:
                data = data[os.write(1, data) :]


def _line(entry: _Entry) -> bytes:
    now, method, path, status, seconds, received, sent = entry
    line = {
        "time": f"{_second(int(now))}.{int(now % 1 * 1000):03d}Z",
        "method": method,
        "path": path,
        "status": status,
        "ms": round(seconds * 1000, 3),
        "received": received,
        "sent": sent,
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


@lru_cache(maxsize=1)
def _second(now: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
