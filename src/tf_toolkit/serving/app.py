"""What a server answers: each request gets an answer, in time, and every fault is JSON."""

from __future__ import annotations

import asyncio
import logging
import time

from tf_toolkit.serving.access_log import AccessLog
from tf_toolkit.serving.errors import RequestError
from tf_toolkit.serving.metrics import Metrics
from tf_toolkit.serving.request import Disconnected, Request, Response, refusal
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
        self.timeout = timeout
        self.in_flight: set[Request] = set()
        self._late: set[Request] = set()
        self._watching = False

    async def answer(self, request: Request) -> Response | None:
        """The answer, or None where there is nobody left to have it."""
        self.in_flight.add(request)
        if not self._watching:
            self._watching = True
            self._watch(asyncio.get_running_loop())
        response: Response | None
        try:
            response = await self._routes.answer(request)
        except RequestError as error:
            response = refusal(error.status, error.message)
        except Disconnected:
            response = None
        except asyncio.CancelledError:
            response = self._late_answer(request)
        except MemoryError:
            response = refusal(507, "not enough memory for this request")
        except Exception as error:
            log.exception("%s %s failed", request.method, request.raw_path)
            response = refusal(500, f"{type(error).__name__}: {error}")
        self.in_flight.discard(request)
        status, sent = (_CLIENT_CLOSED, 0) if response is None else (response.status, len(response.body))
        seconds = time.monotonic() - request.started
        self._metrics.count(request.route, request.model, status, seconds)
        if status != 200 or request.route != _PING:
            self._access_log.add(request.method, request.raw_path, status, seconds, request.received, sent)
        return response

    def close(self) -> None:
        """Nothing more is going to be answered."""
        self._access_log.flush()

    def _late_answer(self, request: Request) -> Response:
        if request not in self._late:
            return refusal(503, "the server is ending")
        self._late.discard(request)
        if request.in_body:
            return refusal(408, f"the body did not come in within {self.timeout:g} s, which {TIMEOUT} sets")
        return refusal(504, f"no answer within {self.timeout:g} s, which {TIMEOUT} sets")

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """End what is late: one timer for all requests costs less than one for each."""
        now = time.monotonic()
        for request in self.in_flight:
            late = now > request.deadline and request not in self._late
            if late and request.run is not None and request.run.cancel():
                self._late.add(request)
        loop.call_later(_WATCH_SECONDS, self._watch, loop)
