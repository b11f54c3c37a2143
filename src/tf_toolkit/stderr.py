"""Standard error of a process: passed through byte for byte and at once, and the last of it kept."""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Protocol, TextIO

from tf_toolkit.masking import without

KEPT_BYTES = 64 * 1024
# A traceback so shortly before a process was told to end was its own end.
LAST_WORDS_SECONDS = 5.0
# A process may take long to end after its uncaught exception; a traceback further back was another matter.
LONGEST_END_SECONDS = 60.0
# Stands where something is missing.
LOST = b"\n[...]\n"
# Pieces that stay in the processor's cache from one copy to the next; larger ones pass more slowly.
_CHUNK = 32 * 1024
# Cyan, yellow, green, magenta and blue of a terminal; red looks like a mistake.
_COLOURS = (36, 33, 32, 35, 34)
_TRACEBACK_HEADER = b"Traceback (most recent call last):"

# Entered with each piece of standard error while that piece is written out.
Around = Callable[[bytes], contextlib.AbstractContextManager[object]]


class KeptStderr:
    """The last of a stream of bytes, and what followed its last traceback header where that is further back."""

    def __init__(self) -> None:
        self._recent = bytearray()
        self._traceback = bytearray()
        self._lost = False

    def feed(self, chunk: bytes) -> None:
        self._recent += chunk
        if len(self._recent) > 2 * KEPT_BYTES:
            self._forget(len(self._recent) - KEPT_BYTES)

    def _forget(self, count: int) -> None:
        header = self._recent.rfind(_TRACEBACK_HEADER, 0, count + len(_TRACEBACK_HEADER) - 1)
        if header >= 0:
            self._traceback.clear()
            self._lost = False
        if header >= 0 or self._traceback:
            following = self._recent[max(header, 0) : count]
            room = KEPT_BYTES - len(self._traceback)
            self._traceback += following[:room]
            self._lost = self._lost or len(following) > room
        del self._recent[:count]

    def value(self) -> bytes:
        return bytes(self._traceback + (LOST if self._lost else b"") + self._recent)


class Passing(Protocol):
    """What happens to a stream on its way."""

    def feed(self, chunk: bytes) -> bytes:
        """What may pass now."""

    def flush(self) -> bytes:
        """What was held back, at the end of the stream."""


class WholeLines:
    """Lines pass when they are whole, each changed in one way; one that is too long passes in pieces."""

    def __init__(self, change: Callable[[bytes], bytes]) -> None:
        """``change`` is given lines with their ends."""
        self._change = change
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        lines, newline, self._held = (self._held + chunk).rpartition(b"\n")
        if len(self._held) > KEPT_BYTES:
            lines, newline, self._held = lines + newline + self._held, b"", b""
        return self._change(lines + newline) if lines or newline else b""

    def flush(self) -> bytes:
        held, self._held = self._held, b""
        return self._change(held) if held else b""


def masked(secrets: Collection[str]) -> Passing:
    """Secrets, and credentials in URLs, are masked."""
    return WholeLines(lambda lines: _without(lines, secrets))


def prefixed(prefix: str, sink: TextIO | None) -> Passing:
    """Every line begins with who wrote it, in a colour of its own where ``sink`` shows any, and has an end."""
    start = (_coloured(prefix) if _shows_colours(sink) else prefix).encode()

    def change(lines: bytes) -> bytes:
        return b"".join(start + line + b"\n" for line in lines.removesuffix(b"\n").split(b"\n"))

    return WholeLines(change)


def _shows_colours(sink: TextIO | None) -> bool:
    # https://no-color.org
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return sink is not None and sink.isatty() and not plain


def _coloured(prefix: str) -> str:
    # Neighbours differ, for their names do in one digit.
    return f"\x1b[{_COLOURS[sum(prefix.encode()) % len(_COLOURS)]}m{prefix.rstrip()}\x1b[0m "


class Tee(threading.Thread):
    """Copies a pipe to one of our own streams, byte for byte and at once, and keeps the last of it."""

    def __init__(self, source: int, sink: TextIO | None, around: Around, passing: Passing | None) -> None:
        super().__init__(daemon=True)
        self._source = source
        self._sink = sink
        self._around = around
        self._passing = passing
        self.kept = KeptStderr()
        # When the last traceback began, on the monotonic clock.
        self.traceback_at = -math.inf

    def run(self) -> None:
        sink = self._sink.fileno() if self._sink is not None else -1
        for piece in self._pieces():
            self.kept.feed(piece)
            if _TRACEBACK_HEADER in piece:
                self.traceback_at = time.monotonic()
            with self._around(piece):
                if sink >= 0 and not write_all(sink, piece):
                    # Nobody reads our stream any more. Go on reading, so that the script does not block.
                    sink = -1
        os.close(self._source)

    def _pieces(self) -> Iterator[bytes]:
        while chunk := os.read(self._source, _CHUNK):
            piece = chunk if self._passing is None else self._passing.feed(chunk)
            if piece:
                yield piece
        last = b"" if self._passing is None else self._passing.flush()
        if last:
            yield last


def _without(lines: bytes, secrets: Collection[str]) -> bytes:
    return without(lines.decode("utf-8", "surrogateescape"), secrets).encode("utf-8", "surrogateescape")


def write_all(sink: int, chunk: bytes) -> bool:
    """Write all of it, however slowly it is read; False where nobody reads it any more."""
    view = memoryview(chunk)
    while view:
        try:
            view = view[os.write(sink, view) :]
        except BlockingIOError:
            select.select([], [sink], [])
        except OSError:
            return False
    return True
