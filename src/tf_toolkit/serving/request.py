"""A request and its answer, over ASGI: https://asgi.readthedocs.io/en/latest/specs/www.html."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

import orjson

from tf_toolkit.serving.errors import RequestError
from tf_toolkit.serving.media_types import JSON
from tf_toolkit.serving.settings import MAX_REQUEST_SIZE

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# A body that comes in more slowly than so many bytes a second is given up in the end.
_SLOWEST = 100_000
_DIGITS_OF_A_LENGTH = 18


class Disconnected(Exception):
    """The client went away before its request had come in."""


class Response(NamedTuple):
    body: bytes
    content_type: str = JSON
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Request:
    """One request. ``deadline`` is on the clock of the event loop."""

    __slots__ = ("_headers", "_receive", "_scope", "deadline", "in_body", "method", "model", "received", "route")

    def __init__(self, scope: Message, receive: Receive, started: float, timeout: float) -> None:
        self._scope = scope
        self._receive = receive
        # Of several of one name, the first.
        self._headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self.method: str = scope["method"]
        self.deadline = started + timeout
        # Bytes of the body, and whether more are waited for.
        self.received = 0
        self.in_body = False
        # For metrics.
        self.route = "other"
        self.model = ""

    @property
    def path(self) -> str:
        """With what is percent-encoded decoded."""
        path: str = self._scope["path"]
        return path

    @property
    def raw_path(self) -> str:
        """As it was sent, without the query."""
        raw: bytes = self._scope["raw_path"]
        return raw.decode("latin-1")

    def header(self, name: bytes) -> str | None:
        """The first header of that name, which is in lower case."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises RequestError where it is larger than ``limit``, unread where its length is told."""
        length = self.header(b"content-length") or ""
        if length.isdigit() and (len(length) > _DIGITS_OF_A_LENGTH or int(length) > limit):
            raise _too_large(limit)
        chunks: list[bytes] = []
        self.in_body = True
        while self.in_body:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk: bytes = message.get("body", b"")
            self.received += len(chunk)
            if self.received > limit:
                raise _too_large(limit)
            chunks.append(chunk)
            self.deadline += len(chunk) / _SLOWEST
            self.in_body = message.get("more_body", False)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def refusal(status: int, message: str, *headers: tuple[bytes, bytes]) -> Response:
    """An answer that says what went wrong."""
    return Response(error_body(message), JSON, status, headers)


def error_body(message: str) -> bytes:
    """``{"error": message}``; what is no Unicode in it becomes a question mark."""
    return orjson.dumps({"error": message.encode(errors="replace").decode()})


def _too_large(limit: int) -> RequestError:
    return RequestError(413, f"the body is larger than {limit} bytes, which {MAX_REQUEST_SIZE} sets")
