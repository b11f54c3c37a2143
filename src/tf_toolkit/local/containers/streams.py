"""What the hosts write, on its way to our own two streams."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TextIO

from tf_toolkit.stderr import Passing, prefixed, write_all


class Streams:
    """Our own two streams, as one of the hosts writes to them."""

    def __init__(self, prefix: str, around: Callable[[], AbstractContextManager[object]]) -> None:
        self._around = around
        self._sinks = {True: _Sink(sys.__stdout__, prefix), False: _Sink(sys.__stderr__, prefix)}

    def feed(self, to_stdout: bool, piece: bytes) -> None:
        with self._around():
            self._sinks[to_stdout].feed(piece)

    def flush(self) -> None:
        with self._around():
            for sink in self._sinks.values():
                sink.flush()


class _Sink:
    """Bytes pass unchanged, or with a host's name before each line."""

    def __init__(self, stream: TextIO | None, prefix: str) -> None:
        self._descriptor = -1 if stream is None else stream.fileno()
        self._passing: Passing | None = prefixed(prefix, stream) if prefix else None

    def feed(self, piece: bytes) -> None:
        self._write(piece if self._passing is None else self._passing.feed(piece))

    def flush(self) -> None:
        if self._passing is not None:
            self._write(self._passing.flush())

    def _write(self, piece: bytes) -> None:
        # Where nobody reads our stream any more, the script is to go on nevertheless.
        if piece and self._descriptor >= 0 and not write_all(self._descriptor, piece):
            self._descriptor = -1
