"""Standard error of a process: passed through byte for byte and at once, and the last of it kept."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import sys
import threading
from collections.abc import Callable, Collection, Iterator

from tf_toolkit.masking import without

KEPT_BYTES = 64 * 1024
# Stands where something is missing.
LOST = b"\n[...]\n"
# Pieces that stay in the processor's cache from one copy to the next; larger ones pass more slowly.
_CHUNK = 32 * 1024
_PIPE_SIZE = 256 * 1024
_TRACEBACK_HEADER = b"Traceback (most recent call last):"
# fcntl.F_SETPIPE_SZ, which Python names from 3.10 on.
_F_SETPIPE_SZ = 1031

# Entered with each piece of standard error while that piece is written out.
Around = Callable[[bytes], contextlib.AbstractContextManager[object]]


def open_pipe() -> tuple[int, int]:
    """A pipe that holds much, so that a script that writes much seldom waits."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(writer, _F_SETPIPE_SZ, _PIPE_SIZE)
    return reader, writer


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


class Tee(threading.Thread):
    """Copies a pipe to our own standard error, byte for byte and at once, and keeps the last of it.

    With ``secrets``, an empty set included, it copies whole lines instead, with them and credentials in URLs masked.
    """

    def __init__(self, source: int, around: Around, secrets: Collection[str] | None) -> None:
        super().__init__(daemon=True)
        self._source = source
        self._around = around
        self._secrets = secrets
        self.kept = KeptStderr()

    def run(self) -> None:
        sink = sys.__stderr__.fileno() if sys.__stderr__ is not None else -1
        for piece in self._pieces():
            self.kept.feed(piece)
            with self._around(piece):
                if sink >= 0 and not _write(sink, piece):
                    # Nobody reads our standard error any more. Go on reading, so that the script does not block.
                    sink = -1
        os.close(self._source)

    def _pieces(self) -> Iterator[bytes]:
        held = b""
        while chunk := os.read(self._source, _CHUNK):
            if self._secrets is None:
                yield chunk
                continue
            lines, newline, held = (held + chunk).rpartition(b"\n")
            if len(held) > KEPT_BYTES:
                lines, newline, held = lines + newline + held, b"", b""
            if lines or newline:
                yield _without(lines + newline, self._secrets)
        if held and self._secrets is not None:
            yield _without(held, self._secrets)


def _without(lines: bytes, secrets: Collection[str]) -> bytes:
    return without(lines.decode("utf-8", "surrogateescape"), secrets).encode("utf-8", "surrogateescape")


def _write(sink: int, chunk: bytes) -> bool:
    view = memoryview(chunk)
    while view:
        try:
            view = view[os.write(sink, view) :]
        except BlockingIOError:
            select.select([], [sink], [])
        except OSError:
            return False
    return True
