"""HTTP to one process on this machine, over connections that are kept."""

from __future__ import annotations

import http.client
import select
import threading
import time
from typing import NamedTuple

# The other side closes one that nothing comes on, after 50 s at least.
_IDLE_SECONDS = 10.0
_HEADERS = {"Content-Type": "application/json"}


class Answer(NamedTuple):
    status: int
    body: bytes


class Client:
    """From any thread; each request has a connection of its own."""

    def __init__(self, port: int, timeout: float) -> None:
        """``timeout`` is in seconds, for each step of a request."""
        self._port = port
        self._timeout = timeout
        self._lock = threading.Lock()
        # With the time of the last use; the freshest is the last.
        self._idle: list[tuple[http.client.HTTPConnection, float]] = []

    def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Raises OSError, and HTTPException where the answer is no HTTP."""
        connection = self._kept() or http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout)
        try:
            connection.request(method, path, body, _HEADERS)
            response = connection.getresponse()
            answer = Answer(response.status, response.read())
        except BaseException:
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            with self._lock:
                self._idle.append((connection, time.monotonic()))
        return answer

    def _kept(self) -> http.client.HTTPConnection | None:
        """A connection that is still good."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection, used = self._idle.pop()
            if time.monotonic() - used < _IDLE_SECONDS and not _has_something(connection):
                return connection
            connection.close()

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()


def _has_something(connection: http.client.HTTPConnection) -> bool:
    """Between requests that is the connection's end, or bytes that belong to nothing."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))
