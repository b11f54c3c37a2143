"""Signals as they came: handlers only record, and whoever waits for processes acts."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from types import FrameType

from tf_toolkit.errors import Stopped

STOP = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
FORWARDED = frozenset({*STOP, signal.SIGUSR1, signal.SIGUSR2})
# HUP asks some programs to read their settings again, so it alone starts no countdown to KILL.
ESCALATED = STOP - {signal.SIGHUP}


class _Inbox:
    """One per process, as signals are."""

    def __init__(self) -> None:
        self.received: list[int] = []
        # Raised in the main thread where that is interruptible: what another thread found out.
        self.error: BaseException | None = None
        self.interruptible = False
        self.wakeup = self.waker = -1

    def record(self, number: int, _frame: FrameType | None) -> None:
        if number in FORWARDED:
            self.received.append(number)
        if self.interruptible and number in STOP:
            raise Stopped(number)
        if self.interruptible and self.error is not None:
            raise self.error


_inbox = _Inbox()


def listen() -> None:
    """From now on record the signals that are forwarded to the user's processes, instead of dying of them.

    PID 1 ignores every signal that it has no handler for, so this is also what makes ``docker stop`` work.
    """
    if _inbox.wakeup >= 0:
        return
    _inbox.wakeup, _inbox.waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in (*FORWARDED, signal.SIGCHLD):
        # Ignored by nohup(1), which is to outlive the terminal.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _inbox.record)
    signal.set_wakeup_fd(_inbox.waker, warn_on_full_buffer=False)


@contextlib.contextmanager
def interruptible(yes: bool = True) -> Iterator[None]:
    """Within, a stop signal raises Stopped at once, also one that came before; or with ``yes`` false it does not."""
    listen()
    before, _inbox.interruptible = _inbox.interruptible, yes
    try:
        for number in _inbox.received:
            if yes and number in STOP:
                raise Stopped(number)
        if yes and _inbox.error is not None:
            raise _inbox.error
        yield
    finally:
        _inbox.interruptible = before


def wake() -> None:
    """From another thread: end the sleep that is going on, or else the next."""
    with contextlib.suppress(OSError):
        os.write(_inbox.waker, b".")


def interrupt(error: BaseException) -> None:
    """From another thread: raise ``error`` in the main one, at once or as soon as it is interruptible."""
    _inbox.error = error
    # Only the main thread runs handlers, and only a signal makes it run them.
    os.kill(os.getpid(), signal.SIGCHLD)


def interrupted() -> bool:
    """Whether an error waits to be raised."""
    return _inbox.error is not None


def taken() -> Iterator[int]:
    """The signals that came, each once."""
    while _inbox.received:
        yield _inbox.received.pop(0)


def sleep(seconds: float | None) -> None:
    """Until a signal comes, a child's end included, or another thread wakes us, or the time is over."""
    ready, _, _ = select.select([_inbox.wakeup], [], [], None if seconds is None else max(0.0, seconds))
    if ready:
        with contextlib.suppress(BlockingIOError):
            os.read(_inbox.wakeup, 4096)
