"""What a person sees on a terminal. rich is used where it is installed, and only on a terminal; all else is plain."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tf_toolkit.contract import Paths
from tf_toolkit.stderr import Around

if TYPE_CHECKING:
    from rich.console import Console


def say(text: str) -> None:
    """One line on standard error, if there is anybody to read it."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"tf-toolkit: {text}", file=sys.stderr, flush=True)


def console(stream: TextIO | None) -> Console | None:
    """A rich console on ``stream``, or None where the output is to be plain."""
    if stream is None or not stream.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    found = Console(file=stream, highlight=False, markup=False, emoji=False)
    return found if found.is_terminal and not found.is_dumb_terminal else None


# The stages in `train`'s log, and what it does next.
_STAGE = re.compile(rb" tf-toolkit INFO +(read|describe|install|decide): ")
_NEXT = {b"read": "looking at this machine", b"describe": "preparing the code and what it needs"}
_LAST = b"decide"
# For the last of `train`'s lines to come through the pipe, once `train` has written it.
_LINE_SECONDS = 1.0


@contextlib.contextmanager
def progress(paths: Paths) -> Iterator[Around]:
    """Show how `train` comes along, on a terminal, until its script starts.

    Gives what supervisor.run() is to do around each piece of `train`'s standard error.
    """
    found = console(sys.stderr)
    fifo = None if found is None else _fifo(paths.starting)
    if found is None or fifo is None:
        yield contextlib.nullcontext
        return
    spinner = _Spinner(found, fifo)
    try:
        yield spinner.around
    finally:
        spinner.close()
        paths.starting.unlink(missing_ok=True)


def _fifo(path: Path) -> int | None:
    """Where `train` says that its script is about to start, locked; None where the file system has no such things."""
    try:
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        # Linux opens a FIFO for both at once (fifo(7)), so that neither end waits for the other.
        fifo = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    fcntl.flock(fifo, fcntl.LOCK_EX)
    return fifo


class _Spinner:
    """A line that is cleared before anything else is written, and drawn again below it, until the script starts."""

    def __init__(self, found: Console, fifo: int) -> None:
        # The spinner of these is the one that every terminal and every encoding can draw.
        self._status = found.status("reading the job", spinner="line")
        self._fifo = fifo
        self._lock = threading.Lock()
        self._line = b""
        self._stages: list[bytes] = []
        self._last = threading.Event()
        self._over = False
        self._start()
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    @contextlib.contextmanager
    def around(self, chunk: bytes) -> Iterator[None]:
        with self._lock:
            self._stop()
            yield
            if self._over:
                return
            self._stages += _STAGE.findall(self._line + chunk)
            self._line = (self._line + chunk).rpartition(b"\n")[2]
            if _LAST in self._stages:
                self._last.set()
            elif not self._line:
                self._status.update(_NEXT.get(self._stages[-1]) if self._stages else None)
                self._start()

    def close(self) -> None:
        """Also where `train` ended before its script started."""
        self._last.set()
        os.write(self._fifo, b".")
        self._waiting.join()
        os.close(self._fifo)

    def _wait(self) -> None:
        os.read(self._fifo, 1)
        if self._stages:
            self._last.wait(_LINE_SECONDS)
        with self._lock:
            self._over = True
            self._stop()
        fcntl.flock(self._fifo, fcntl.LOCK_UN)

    # The terminal may be gone; what is piped through must go on.
    def _start(self) -> None:
        with contextlib.suppress(OSError):
            self._status.start()

    def _stop(self) -> None:
        with contextlib.suppress(OSError):
            self._status.stop()
