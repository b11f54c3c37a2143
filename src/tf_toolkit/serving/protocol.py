"""HTTP/1.1 on an asyncio transport, parsed by httptools: https://www.rfc-editor.org/rfc/rfc9112.

A request that is answered without waiting takes no task, no event and no second turn of the event loop, which would
cost more than all the rest of it. And clients that are slow, or send what is no HTTP, hold neither memory nor a place:
headers have a size and a time, answers must be read, and requests that come before their turn are not read in.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

import httptools
from uvicorn.server import ServerState

from tf_toolkit.serving import http_text
from tf_toolkit.serving.coroutine_run import CoroutineRun
from tf_toolkit.serving.deadline import Deadline
from tf_toolkit.serving.request import Request, Response, refusal

if TYPE_CHECKING:
    from tf_toolkit.serving.app import App

HEADER_BYTES = 65_536
# As nginx has it: a client that closes a connection that it has kept is never raced.
_KEEP_ALIVE_SECONDS = 75.0
# For the rest of a body whose request is answered already, as one that is too large is: a client that is sending does
# not read, and the answer would be lost with the connection.
_REST_SECONDS = 10.0
# The same after an answer that ends the connection.
_LAST_SECONDS = 1.0
# Of a body that nobody asks for yet, so much is read in.
_UNASKED_BYTES = 65_536
# A copy of it would cost more than a packet of its own.
_LARGE_BODY = 65_536
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_HTTP = (400, "Invalid HTTP request received.")
_TOO_LARGE = (431, f"the request's headers are larger than {HEADER_BYTES} bytes")


class Protocol(asyncio.Protocol):
    """One connection. uvicorn makes it, and has it end by ``shutdown``."""

    def __init__(
        self,
        app: App,
        config: object,
        server_state: ServerState,
        app_state: object,
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app = app
        self._server = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        # The end of the wait for what is to come, and for what is to be read of an answer.
        self._coming = Deadline(self._loop, self._came_not)
        self._going = Deadline(self._loop, self._check_sending)
        self._unsent = 0
        # No more than what is here already is going to be answered; and nothing more is read.
        self._ending = False
        self._refused = False
        # Where the parser is: what it has of headers, how many bytes of those came in earlier packets, how many bytes
        # this packet has, how many messages it has seen the end of, and what is said when it sees no more.
        self._in_headers = True
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._packet_bytes = 0
        self._messages = 0
        self._refusal = _NO_HTTP
        # The request whose body is coming; the one that is being answered; and those that wait for their turn.
        self._incoming: Request | None = None
        self._current: Request | None = None
        self._waiting: deque[Request] = deque()
        self._may_begin = True
        self._reading = True
        self._writable = True
        # What the parser calls; of several headers of one name the first counts.
        self.on_header = self._headers.setdefault
        self._parser = httptools.HttpRequestParser(self)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        # An answer goes out at once, and does not wait for those to all that came with its request.
        transport.set_write_buffer_limits(high=0)
        self._server.connections.add(self)  # type: ignore[arg-type]
        self._coming.set(self._app.timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._coming.close()
        self._going.close()
        self._waiting.clear()
        if self._incoming is not None:
            self._incoming.cut_off()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_headers and (b"pgrade:" in data or b"PGRADE:" in data):
            data = http_text.without_upgrade(data)
        self._packet_bytes, messages = len(data), self._messages
        # One request is answered while the packet is parsed, the others when other connections have had their turn.
        self._may_begin = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            # Also what is raised in what the parser calls.
            self._refuse(*self._refusal)
            return
        request = self._incoming
        if request is not None:
            # Trailers, which may have no end, are read by nobody.
            self._headers.clear()
            if not request.offered:
                # Its body is still to come.
                self._offer(request)
        if self._in_headers and self._messages == messages:
            self._count_headers(len(data))

    def eof_received(self) -> bool:
        """A client that sends no more may still wait for its answer."""
        waits = self._in_headers and (self._current is not None or bool(self._waiting))
        self._ending = self._ending or waits
        return waits

    def pause_writing(self) -> None:
        self._writable = False
        self._watch_sending()

    def resume_writing(self) -> None:
        self._writable = True
        self._going.clear()
        self._next()

    # What the parser calls.

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser.should_upgrade():
            raise ValueError("it would be taken without its body")
        headers = self._headers
        if self._header_bytes + self._packet_bytes > HEADER_BYTES:
            # Of these bytes some may be the body's, or of another request.
            size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in headers.items())
            if size > HEADER_BYTES:
                self._refusal = _TOO_LARGE
                raise ValueError(self._refusal[1])
        self._coming.clear()
        self._incoming = Request(
            self,
            parser.get_method().decode("ascii"),
            http_text.path(self._url),
            {name.lower(): value for name, value in reversed(headers.items())},
            parser.get_http_version() != "1.0" and parser.should_keep_alive(),
            time.monotonic(),
            self._app.timeout,
        )
        self._in_headers, self._header_bytes, self._url = False, 0, b""
        headers.clear()

    def on_body(self, body: bytes) -> None:
        request = self._incoming
        if request is not None and not request.answered:
            request.feed(body)
            if not request.in_body and request.received > _UNASKED_BYTES:
                self._pause_reading()

    def on_message_complete(self) -> None:
        # What comes now is the next request's headers.
        self._in_headers = True
        self._messages += 1
        self._headers.clear()
        request, self._incoming = self._incoming, None
        assert request is not None
        request.end()
        if request.answered:
            self._rest()
        elif not request.offered:
            self._offer(request)

    # What a request, and uvicorn, call.

    def read_on(self, request: Request) -> None:
        """The body of the request is wanted."""
        if (request.header(b"expect") or "").lower() == "100-continue" and not request.received:
            self._transport.write(_CONTINUE)
        self._resume_reading()

    def shutdown(self) -> None:
        """End when what is in flight has been answered."""
        self._ending = True
        if self._current is None and not self._waiting:
            self._transport.close()

    # Requests, in their order.

    def _offer(self, request: Request) -> None:
        request.offered = True
        if self._refused:
            return
        if self._may_begin and self._current is None and not self._waiting and self._writable:
            self._may_begin = False
            self._begin(request)
        else:
            self._waiting.append(request)
            self._pause_reading()
            if len(self._waiting) == 1:
                self._loop.call_soon(self._next)

    def _next(self) -> None:
        if self._waiting and self._current is None and self._writable and not self._transport.is_closing():
            self._begin(self._waiting.popleft())

    def _begin(self, request: Request) -> None:
        self._current = request
        answer = self._app.answer(request)
        try:
            waits_for = answer.send(None)
        except StopIteration as end:
            self._respond(request, end.value)
            return
        request.run = CoroutineRun(answer, waits_for, self._finish)
        self._server.tasks.add(request.run)  # type: ignore[arg-type]

    def _finish(self, response: Response | None) -> None:
        request = self._current
        assert request is not None
        self._server.tasks.discard(request.run)
        self._respond(request, response)

    def _respond(self, request: Request, response: Response | None) -> None:
        self._current = None
        request.answered = True
        if self._transport.is_closing():
            return
        last = not request.keep_alive or (self._ending and not self._waiting)
        if response is not None:
            self._write(request, response, last=last)
        if response is None or last:
            self._end()
        elif self._waiting:
            self._loop.call_soon(self._next)
        else:
            if not self._reading:
                self._resume_reading()
            self._rest()

    def _end(self) -> None:
        """Send no more, but read a little: to close while something is coming would take the answer back."""
        self._refused = True
        self._waiting.clear()
        self._transport.write_eof()
        self._resume_reading()
        self._coming.set(_LAST_SECONDS)

    def _rest(self) -> None:
        """Nothing is being answered, and more may come."""
        if not self._in_headers:
            self._coming.set(_REST_SECONDS)
        elif not self._header_bytes:
            self._coming.set(_KEEP_ALIVE_SECONDS)

    def _write(self, request: Request, response: Response, *, last: bool) -> None:
        head = http_text.head(response, self._server.default_headers, last=last)
        body = b"" if request.method == "HEAD" else response.body
        if len(body) < _LARGE_BODY:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    # What is no HTTP, and what does not come.

    def _count_headers(self, size: int) -> None:
        if self._messages and not self._header_bytes:
            self._coming.set(self._app.timeout)
        self._header_bytes += size
        if self._header_bytes > HEADER_BYTES:
            self._refuse(*_TOO_LARGE)

    def _refuse(self, status: int, message: str) -> None:
        if self._refused:
            return
        self._refused = True
        broken = None if self._in_headers else self._incoming
        if broken is not None and broken in self._waiting:
            self._waiting.remove(broken)
        at_work = broken is not None and broken is self._current
        if self._waiting or (self._current is not None and not at_work):
            # Earlier requests come to their end, and then the connection.
            self._ending = True
            return
        response = refusal(status, message)
        self._transport.write(http_text.head(response, self._server.default_headers, last=True) + response.body)
        if at_work:
            # Who reads the broken body hears that the client is gone.
            self._transport.close()
        else:
            self._coming.set(_LAST_SECONDS)

    def _came_not(self) -> None:
        if self._header_bytes and not self._refused:
            self._refuse(408, f"the request's headers did not come within {self._app.timeout:g} s")
        else:
            self._transport.close()

    def _watch_sending(self) -> None:
        self._unsent = self._transport.get_write_buffer_size()
        self._going.set(self._app.timeout)

    def _check_sending(self) -> None:
        if self._transport.get_write_buffer_size() < self._unsent:
            self._watch_sending()
        else:
            self._transport.abort()

    def _pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()
