"""One line of JSON on standard output for each request, but none for a /ping that went well."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from functools import lru_cache

import orjson

# Lines go out together: one write for each request would cost as much as a small model.
_SECONDS = 0.05
_LONGEST_PATH = 1000


class AccessLog:
    """For the server's event loop alone."""

    def __init__(self, enabled: bool, descriptor: int = 1) -> None:
        self._enabled = enabled
        self._descriptor = descriptor
        self._lines: list[bytes] = []

    def add(self, method: str, path: str, status: int, seconds: float, received: int, sent: int) -> None:
        """A request that was answered, or whose client went away before (status 499); sizes are of bodies."""
        if not self._enabled:
            return
        now = time.time()
        line = {
            "time": f"{_second(int(now))}.{int(now % 1 * 1000):03d}Z",
            "method": method,
            "path": path[:_LONGEST_PATH],
            "status": status,
            "ms": round(seconds * 1000, 3),
            "received": received,
            "sent": sent,
        }
        if not self._lines:
            asyncio.get_running_loop().call_later(_SECONDS, self.flush)
        self._lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def flush(self) -> None:
        """Write what is waiting."""
        data, self._lines = b"".join(self._lines), []
        # Whoever read it may be gone; the server is not there for its log.
        with suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]


@lru_cache(maxsize=1)
def _second(now: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
