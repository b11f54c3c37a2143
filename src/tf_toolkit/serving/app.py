"""The server as an ASGI application: each request gets an answer, in time, and every fault is JSON."""

from __future__ import annotations

import asyncio
import logging
import time

from tf_toolkit.serving.access_log import AccessLog
from tf_toolkit.serving.errors import RequestError
from tf_toolkit.serving.metrics import Metrics
from tf_toolkit.serving.request import Disconnected, Message, Receive, Request, Response, Send, refusal
from tf_toolkit.serving.routes import Routes
from tf_toolkit.serving.settings import TIMEOUT

log = logging.getLogger("tf_toolkit")

# How often it is looked for requests whose time is over.
_WATCH_SECONDS = 0.25
# In the access log, as nginx has it: the client went away first.
_CLIENT_CLOSED = 499
_PING = "/ping"


class App:
    """All that is answered, on one event loop."""

    def __init__(self, routes: Routes, metrics: Metrics, access_log: AccessLog, timeout: float) -> None:
        self._routes = routes
        self._metrics = metrics
        self._access_log = access_log
        self._timeout = timeout
        # With what each is about.
        self.in_flight: dict[asyncio.Task[object], Request] = {}
        self._late: set[Request] = set()
        self._watching = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        request = Request(scope, receive, started, self._timeout)
        task = asyncio.current_task()
        assert task is not None
        self.in_flight[task] = request
        if not self._watching:
            self._watching = True
            self._watch(asyncio.get_running_loop())
        try:
            response = await self._answer(request)
        finally:
            del self.in_flight[task]
        if response is None:
            status, sent = _CLIENT_CLOSED, 0
        else:
            status, sent = response.status, len(response.body)
            await _send(response, send)
        seconds = time.monotonic() - started
        self._metrics.count(request.route, request.model, status, seconds)
        if status != 200 or request.route != _PING:
            self._access_log.add(request.method, request.raw_path, status, seconds, request.received, sent)

    async def _answer(self, request: Request) -> Response | None:
        try:
            return await self._routes.answer(request)
        except RequestError as error:
            return refusal(error.status, error.message)
        except Disconnected:
            return None
        except asyncio.CancelledError:
            return self._late_answer(request)
        except MemoryError:
            return refusal(507, "not enough memory for this request")
        except Exception as error:
            log.exception("%s %s failed", request.method, request.raw_path)
            return refusal(500, f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Nothing more is going to be answered."""
        self._access_log.flush()

    def _late_answer(self, request: Request) -> Response:
        if request not in self._late:
            return refusal(503, "the server is ending")
        self._late.discard(request)
        if request.in_body:
            return refusal(408, f"the body did not come in within {self._timeout:g} s, which {TIMEOUT} sets")
        return refusal(504, f"no answer within {self._timeout:g} s, which {TIMEOUT} sets")

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """End what is late: one timer for all requests costs less than one for each."""
        now = time.monotonic()
        for task, request in self.in_flight.items():
            if now > request.deadline and request not in self._late:
                self._late.add(request)
                task.cancel()
        loop.call_later(_WATCH_SECONDS, self._watch, loop)


async def _send(response: Response, send: Send) -> None:
    length = b"%d" % len(response.body)
    headers = ((b"content-type", response.content_type.encode()), (b"content-length", length), *response.headers)
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
