"""Reads a pass in Python alone."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator

from tf_toolkit.pipe_mode import framing
from tf_toolkit.pipe_mode.source import Source, name_of, print_totals

_READ_BYTES = 1 << 18
# Then an iterator whose writer does nothing is asked whether it goes on.
_WAIT_MILLISECONDS = 100


class StreamError(Exception):
    """The stream is not what it should be."""


def chunks(source: Source, wanted: int) -> Iterator[list[bytes]]:
    """Lists of so many records, and a last one of fewer; of any number for 0. Some are empty. Raises StreamError."""
    opened = None
    for opened in source.channel.open():
        if opened is None:
            yield []
    assert opened is not None
    try:
        yield from _Pass(source, wanted, opened.descriptor, opened.epoch).chunks()
    finally:
        os.close(opened.descriptor)


class _Pass:
    def __init__(self, source: Source, wanted: int, descriptor: int, epoch: int) -> None:
        self._source = source
        self._wanted = wanted
        self._descriptor = descriptor
        self._name = name_of(source, epoch)
        self._parser = framing.parser(source.record_format, source.verify, source.may_skip)
        self._ready: list[bytes] = []
        self._seconds = 0.0
        self._size = 0

    def chunks(self) -> Iterator[list[bytes]]:
        try:
            for piece in _pieces(self._descriptor):
                started = time.monotonic()
                before = self._parser.number
                found = self._parser.feed(piece) if piece else []
                self._print_progress(before)
                self._seconds += time.monotonic() - started
                self._size += len(piece)
                yield from self._add(found)
                if self._parser.error is not None:
                    break
            yield from self._add(self._parser.finish())
            if self._ready:
                yield self._ready
            if self._parser.error is not None:
                where = f"record {self._parser.number}, byte {self._parser.offset}"
                raise StreamError(f"{self._name}, {where}: {self._parser.error}")
        finally:
            if self._source.benchmark:
                print_totals(self._name, self._seconds, self._size)

    def _print_progress(self, before: int) -> None:
        interval = self._source.interval
        if interval > 0:
            for number in range(before - before % interval + interval, self._parser.number + 1, interval):
                print(f"PipeModeDataset: {self._name}: {number} records", flush=True)

    def _add(self, records: list[bytes]) -> Iterator[list[bytes]]:
        """What can be handed out with these, or an empty list."""
        if not self._wanted:
            yield records
            return
        self._ready += records
        at = 0
        while len(self._ready) - at >= self._wanted:
            yield self._ready[at : at + self._wanted]
            at += self._wanted
        self._ready = self._ready[at:]
        if not at:
            yield []


def _pieces(descriptor: int) -> Iterator[bytes]:
    """What comes through a FIFO; an empty piece now and then where nothing comes."""
    fifo = select.poll()
    fifo.register(descriptor, select.POLLIN)
    while True:
        events = fifo.poll(_WAIT_MILLISECONDS)
        if not events:
            yield b""
            continue
        piece = os.read(descriptor, _READ_BYTES) if events[0][1] & select.POLLIN else b""
        if not piece:
            # Without POLLIN the last writer has gone; before one came there is no POLLHUP: pipe(7), poll(2).
            return
        yield piece
