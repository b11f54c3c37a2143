"""Requests: a connection for each thread, and where a record is refused, the search for which it was."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from tf_toolkit.local.transform.options import Options
from tf_toolkit.local.transform.records import Fault, Payload, Record, Splitter
from tf_toolkit.local.transform.server import HOST

# The server ends connections that nothing is asked on for 75 s.
_IDLE_SECONDS = 30.0
_LONGEST_MESSAGE = 500
# These say that something is wrong with a record; others are about all that is sent, or about the server.
_OF_A_RECORD = (http.client.BAD_REQUEST, http.client.UNPROCESSABLE_ENTITY, http.client.INTERNAL_SERVER_ERROR)


class Answer(NamedTuple):
    status: int
    body: bytes

    @property
    def is_good(self) -> bool:
        return self.status == http.client.OK

    @property
    def message(self) -> str:
        """One line."""
        text = self.body.decode(errors="replace")
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(text)
            text = found["error"] if isinstance(found, dict) and isinstance(found.get("error"), str) else text
        text = " ".join(text.split())
        return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."


class Sender:
    """For any number of threads."""

    def __init__(self, port: int, options: Options, splitter: Splitter) -> None:
        self._port = port
        self._splitter = splitter
        self._headers = {
            name: value
            for name, value in (("Content-Type", options.content_type), ("Accept", options.accept))
            if value is not None
        }
        self._own = _Own()

    def send(self, payload: Payload) -> bytes:
        """What the server answers. Raises Fault where it refuses, and OSError or HTTPException where it is gone."""
        answer = self._post(payload.body)
        if answer.is_good:
            return answer.body
        first, last = payload.first, payload.last
        if payload.total > 1 and answer.status in _OF_A_RECORD:
            first, last, answer = self._search(list(self._splitter.records(payload)), first, last, answer)
        raise Fault(f"{self._splitter.place(first, last)}the server answered {answer.status}: {answer.message}")

    def _search(self, records: Sequence[Record], first: int, last: int, answer: Answer) -> tuple[int, int, Answer]:
        """The place of the first record with which these are refused, and how; all of them where it cannot be told.

        The records before it are taken together with it, for some fail only beside others, such as those of another
        length.
        """
        good, bad = 0, len(records)
        while bad - good > 1:
            middle = (good + bad) // 2
            found = self._post(b"".join(map(self._splitter.sent, records[:middle])))
            if found.is_good:
                good = middle
            else:
                bad, answer = middle, found
        number = records[bad - 1].number
        alone = self._post(self._splitter.sent(records[bad - 1]))
        if not alone.is_good:
            return number, number, alone
        # It was refused beside others; or, if it is the last, the server fails now and then.
        return (number, number, answer) if bad < len(records) else (first, last, answer)

    def _post(self, body: bytes) -> Answer:
        own = self._own
        if own.connection is None or time.monotonic() - own.used > _IDLE_SECONDS:
            self._own.connect(self._port)
        assert own.connection is not None
        # One that is too large is answered before it is read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            own.connection.request("POST", "/invocations", body, self._headers)
        response = own.connection.getresponse()
        answer = Answer(response.status, response.read())
        own.used = time.monotonic()
        return answer


class _Own(threading.local):
    """A thread's connection."""

    connection: http.client.HTTPConnection | None = None
    used = 0.0

    def connect(self, port: int) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = http.client.HTTPConnection(HOST, port)
