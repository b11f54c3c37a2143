"""uvicorn's HTTP protocol, for clients that are slow, or send what is no HTTP: neither may hold memory or a place.

uvicorn bounds neither the size of headers nor the time that they, or the reading of an answer, may take. What is
overridden are callbacks of asyncio.Protocol and of httptools, what uvicorn calls when they raise, and how it sends.
"""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from tf_toolkit.serving.request import Message, error_body

HEADER_BYTES = 65_536
# For the rest of a body whose request is answered already, as one that is too large is: a client that is sending does
# not read, and the answer would be lost with the connection.
_REST_SECONDS = 10.0
# The same after an answer that ends the connection.
_LAST_SECONDS = 1.0
# httptools takes no body of a request that has this header; nobody needs what clients offer by it.
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_IGNORED = b"\r\nignored:"
# A copy of it would cost more than a packet of its own.
_LARGE_BODY = 65_536
_HEADERS_END = b"\r\n\r\n"
_TOO_LARGE = (431, f"the request's headers are larger than {HEADER_BYTES} bytes")


class Protocol(HttpToolsProtocol):
    """One connection."""

    # Seconds in which headers must have come, and something of an answer must have been taken.
    timeout = 60.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_headers = True
        # Where a packet ends within headers: how many bytes of them have come.
        self._header_bytes = 0
        self._packet_bytes = 0
        self._messages = 0
        self._refusal: tuple[int, str] | None = None
        self._waiting: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(self.timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_sending()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        if self._in_headers:
            data = _without_upgrade(data)
        self._packet_bytes, messages = len(data), self._messages
        super().data_received(data)
        if not self._in_headers or self._messages != messages or self._refusal is not None:
            return
        self._header_bytes += len(data)
        if self._header_bytes > HEADER_BYTES:
            self._refuse(*_TOO_LARGE)
        elif self._waiting is None:
            self._wait(self.timeout)

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that sends no more may still wait for its answer."""
        waits = self._in_headers and self.cycle is not None and not self.cycle.response_complete
        if waits:
            self.shutdown()
        return waits

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            raise ValueError("it would be taken without its body")
        if self._header_bytes + self._packet_bytes > HEADER_BYTES:
            # Of these bytes some may be the body's.
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > HEADER_BYTES:
                # The parser ends, and calls send_400_response.
                raise ValueError(_TOO_LARGE[1])
        self._in_headers, self._header_bytes = False, 0
        self._stop_waiting()
        self._begin()
        # What follows the last chunk of a body.
        self.headers = _Dropped()

    def _begin(self) -> None:
        """What uvicorn does where headers are complete, but with a cycle of ours."""
        version = self.parser.get_http_version()
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        self.scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        self.scope["raw_path"] = url.path
        self.scope["query_string"] = url.query or b""
        earlier = self.cycle
        self.cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if earlier is None or earlier.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            # It came before the answer to the one before it, and waits for that.
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_message_complete(self) -> None:
        # What comes now is the next request's headers.
        self._in_headers = True
        self._messages += 1
        self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_headers and not self.transport.is_closing():
            self._wait(_REST_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        self._stop_sending()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for what is no HTTP."""
        too_large = self._header_bytes + self._packet_bytes > HEADER_BYTES and self._in_headers
        self._refuse(*(_TOO_LARGE if too_large else (400, msg)))

    def _refuse(self, status: int, message: str) -> None:
        self._refusal = (status, message)
        at_work = self.cycle is not None and not self.cycle.response_complete
        if at_work and (self._in_headers or self.pipeline or self.cycle.response_started):
            # An earlier request, or an answer that has begun: it comes to its end, and then the connection.
            self.shutdown()
            return
        body = error_body(message)
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        if at_work:
            # Who reads the broken body hears that the client is gone.
            self.transport.close()
        else:
            self._wait(_LAST_SECONDS)

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(seconds, self._waited_in_vain)

    def _waited_in_vain(self) -> None:
        self._waiting = None
        if self._header_bytes and self._refusal is None:
            self._refuse(408, f"the request's headers did not come within {self.timeout:g} s")
        else:
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _watch_sending(self) -> None:
        self._stop_sending()
        self._sending = self.loop.call_later(self.timeout, self._check_sending, self._unsent())

    def _check_sending(self, before: int) -> None:
        if self._unsent() < before:
            self._watch_sending()
        else:
            self.transport.abort()

    def _unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None


class Cycle(RequestResponseCycle):
    """One request and its answer, of which head and body go out together: uvicorn would send two packets.

    For an application that says how long an answer is, and has all of its body in one message.
    """

    async def send(self, message: Message) -> None:  # type: ignore[override]
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        self.response_started = self.response_complete = True
        lines = [STATUS_LINE[self._start["status"]]]
        for name, value in (*self.default_headers, *self._start["headers"]):
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        body = b"" if self.scope["method"] == "HEAD" else message["body"]
        if len(body) < _LARGE_BODY:
            self.transport.write(b"".join([*lines, body]))
        else:
            self.transport.write(b"".join(lines))
            self.transport.write(body)
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class _Dropped(list[tuple[bytes, bytes]]):
    """Keeps nothing: trailers, which may have no end, are read by nobody."""

    def append(self, header: tuple[bytes, bytes]) -> None:
        pass


def _without_upgrade(data: bytes) -> bytes:
    """A packet that begins in headers, with another name for that one."""
    if b"pgrade:" not in data and b"PGRADE:" not in data:
        return data
    head, end, rest = data.partition(_HEADERS_END)
    return _UPGRADE.sub(_IGNORED, head) + end + rest
