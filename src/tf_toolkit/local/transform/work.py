"""The transform itself: payloads go out, so many at once, and what comes back is written in their order.

A window of payloads moves over all files. Whatever is read ahead, or has come back before its turn, is in it, so that
memory does not grow with files. A fault ends its file alone.
"""

from __future__ import annotations

import http.client
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from tf_toolkit.errors import SourceError
from tf_toolkit.local.terminal import say
from tf_toolkit.local.transform.options import MEGABYTE, Options
from tf_toolkit.local.transform.outputs import Output, Outputs
from tf_toolkit.local.transform.processing import Processing
from tf_toolkit.local.transform.progress import Advance
from tf_toolkit.local.transform.records import Fault, Payload
from tf_toolkit.local.transform.sending import Sender
from tf_toolkit.local.transform.server import Server
from tf_toolkit.local.transform.sources import Source, opened

# For the threads to have work while the answer whose turn it is keeps others waiting.
_WINDOWS = 2


class _File:
    """A file on its way."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.output: Output | None = None
        self.failed = False


class _Sent(NamedTuple):
    """A payload that is being answered, or the end of its file."""

    file: _File
    payload: Payload | None
    answer: Future[bytes] | None
    # Bytes of the file up to its end.
    position: int


class Work:
    """For one run."""

    def __init__(self, server: Server, options: Options, outputs: Outputs, advance: Advance) -> None:
        """Asks the server for what is not given. Raises ServerError."""
        self._server = server
        self._outputs = outputs
        self._advance = advance
        concurrent, payload_mb = server.execution_parameters()
        self._concurrent = options.max_concurrent or concurrent
        self._processing = Processing(options, (options.max_payload_mb or payload_mb) * MEGABYTE)
        self._sender = Sender(server.port, options, self._processing.splitter)
        self._zipped = options.gzip
        self._window: deque[_Sent] = deque()
        # The one file that has an output which is not whole.
        self._writing: _File | None = None
        # Of what is behind: files, those that failed, and bytes.
        self._files = self.failed = self._bytes = 0

    def run(self, sources: Sequence[Source]) -> None:
        """Transform files. Raises ServerError where the server is gone, and OSError for an output."""
        pool = ThreadPoolExecutor(self._concurrent)
        try:
            for file in map(_File, sources):
                for payload, position in self._payloads(file):
                    self._make_room()
                    self._window.append(_Sent(file, payload, pool.submit(self._sender.send, payload), position))
                self._make_room()
                self._window.append(_Sent(file, None, None, file.source.size))
            while self._window:
                self._take()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if self._writing is not None:
                self._discard(self._writing)

    def _payloads(self, file: _File) -> Iterator[tuple[Payload, int]]:
        """Those of a file, until one fails."""
        try:
            with opened(file.source, self._zipped) as content:
                for payload in self._processing.splitter.payloads(content.stream):
                    yield payload, content.position()
                    if file.failed:
                        return
        except Fault as fault:
            self._fail(file, fault)

    def _make_room(self) -> None:
        while len(self._window) >= _WINDOWS * self._concurrent:
            self._take()

    def _take(self) -> None:
        """What has been in the window longest."""
        sent = self._window[0]
        if sent.payload is None:
            self._finish(sent.file)
        elif not sent.file.failed:
            self._write(sent.file, sent.payload, sent.answer)
        del self._window[0]
        self._advance(self._files, self._bytes + (sent.position if sent.payload else 0))

    def _write(self, file: _File, payload: Payload, answer: Future[bytes] | None) -> None:
        assert answer is not None
        try:
            text = self._processing.assemble(payload, answer.result())
        except Fault as fault:
            self._fail(file, fault)
        except (OSError, http.client.HTTPException) as error:
            raise self._server.ended(error) from error
        else:
            self._opened(file).write(text)

    def _finish(self, file: _File) -> None:
        self._files += 1
        self._bytes += file.source.size
        if file.failed:
            self.failed += 1
            return
        try:
            # A file without a record has an output without anything.
            self._opened(file).finish()
            self._writing = None
        except SourceError as error:
            self._fail(file, error)
            self.failed += 1

    def _opened(self, file: _File) -> Output:
        if file.output is None:
            file.output = self._outputs.open(file.source.name)
            self._writing = file
        return file.output

    def _fail(self, file: _File, fault: Exception) -> None:
        if not file.failed:
            file.failed = True
            say(f"error: {file.source.where}: {fault}")
        self._discard(file)

    def _discard(self, file: _File) -> None:
        if file.output is not None:
            file.output.discard()
            file.output = self._writing = None
