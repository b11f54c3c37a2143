"""A request and its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple, Protocol
from urllib.parse import unquote

import orjson

from tf_toolkit.serving.coroutine_run import CoroutineRun
from tf_toolkit.serving.errors import RequestError
from tf_toolkit.serving.media_types import JSON
from tf_toolkit.serving.settings import MAX_REQUEST_SIZE

# A body that comes in more slowly than so many bytes a second is given up in the end.
_SLOWEST = 100_000
_DIGITS_OF_A_LENGTH = 18


class Disconnected(Exception):
    """The client went away before its request had come in."""


class Connection(Protocol):
    """What a request comes in by."""

    def read_on(self, request: Request) -> None:
        """The body of the request is wanted, and has not come in whole."""


class Response(NamedTuple):
    body: bytes
    content_type: str = JSON
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Request:
    """One request. ``started`` and ``deadline`` are on the monotonic clock."""

    __slots__ = (
        *("_chunks", "_connection", "_cut_off", "_headers", "_limit", "_rest", "_whole", "answered", "deadline"),
        *("in_body", "keep_alive", "method", "model", "offered", "raw_path", "received", "route", "run", "started"),
    )

    def __init__(
        self,
        connection: Connection,
        method: str,
        raw_path: str,
        headers: Mapping[bytes, bytes],
        keep_alive: bool,
        started: float,
        timeout: float,
    ) -> None:
        """``headers`` have their names in lower case; the path is as it was sent, without the query."""
        self._connection = connection
        self.method = method
        self.raw_path = raw_path
        self._headers = headers
        self.keep_alive = keep_alive
        self.started = started
        self.deadline = started + timeout
        # Of the body: what has come, how many bytes, and whether it is all.
        self._chunks: list[bytes] = []
        self.received = 0
        self._whole = False
        self._cut_off = False
        # Whether more is waited for, and by whom.
        self.in_body = False
        self._limit = 0
        self._rest: asyncio.Future[None] | None = None
        # For the connection: it waits for its turn or has had it, and it is over.
        self.offered = False
        self.answered = False
        # What answers it, where that has to wait for something.
        self.run: CoroutineRun[Response | None] | None = None
        # For metrics.
        self.route = "other"
        self.model = ""

    @property
    def path(self) -> str:
        """With what is percent-encoded decoded."""
        return unquote(self.raw_path) if "%" in self.raw_path else self.raw_path

    def header(self, name: bytes) -> str | None:
        """The header of that name, which is in lower case; of several, the first."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises RequestError where it is larger than ``limit``, unread where its length is told."""
        if not self._whole:
            length = self.header(b"content-length") or ""
            if length.isdigit() and (len(length) > _DIGITS_OF_A_LENGTH or int(length) > limit):
                raise _too_large(limit)
            if self._cut_off:
                raise Disconnected
            self._limit = limit
            self._rest = asyncio.get_running_loop().create_future()
            self.in_body = True
            self._connection.read_on(self)
            await self._rest
            self.in_body = False
        if self.received > limit:
            raise _too_large(limit)
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    def feed(self, chunk: bytes) -> None:
        """More of the body."""
        self._chunks.append(chunk)
        self.received += len(chunk)
        self.deadline += len(chunk) / _SLOWEST
        if self.in_body and self.received > self._limit:
            self.end()

    def end(self) -> None:
        """The body is whole, or as much as anybody wants of it."""
        self._whole = True
        if self._rest is not None and not self._rest.done():
            self._rest.set_result(None)

    def cut_off(self) -> None:
        """No more of the body is going to come."""
        self._cut_off = True
        if self._rest is not None and not self._rest.done():
            self._rest.set_exception(Disconnected())


def refusal(status: int, message: str, *headers: tuple[bytes, bytes]) -> Response:
    """An answer that says what went wrong."""
    return Response(error_body(message), JSON, status, headers)


def error_body(message: str) -> bytes:
    """``{"error": message}``; what is no Unicode in it becomes a question mark."""
    return orjson.dumps({"error": message.encode(errors="replace").decode()})


def _too_large(limit: int) -> RequestError:
    return RequestError(413, f"the body is larger than {limit} bytes, which {MAX_REQUEST_SIZE} sets")
