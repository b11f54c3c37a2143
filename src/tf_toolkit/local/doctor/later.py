"""What checks have in common: threads that may be left waiting, and processes that never are."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from tf_toolkit import hardware
from tf_toolkit.contract import SIGNAL_BASE
from tf_toolkit.diagnosis import find_cause
from tf_toolkit.process import Exit, ProcessSpec, die_with_parent, shell_status, signal_name
from tf_toolkit.stderr import KEPT_BYTES

T = TypeVar("T")

# Between TERM, at which mpirun ends its ranks and removes its files, and KILL.
_GRACE_SECONDS = 2.0
# A process that a driver holds cannot be killed; it is left to the kernel.
_KILL_SECONDS = 1.0
# Where Python would look for modules first, and here are none.
_CWD = "/"
# Begins what a program of ours says. What it imports may print too, and mpirun puts its tags before.
_MARK = "doctor:"
_SAY = f"import json, sys\ndef say(**found): sys.stdout.write({_MARK!r} + json.dumps(found) + chr(10))\n"
_SAID = re.compile(re.escape(_MARK) + r"(\{.*\})")


class NoAnswerError(Exception):
    """What was asked for was not found out in time."""


class Later(threading.Thread, Generic[T]):
    """What a function returns, worked out beside the others.

    Nobody waits for the thread at the end: what it looks at, such as a file system of another machine, may hang.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        super().__init__(daemon=True)
        self._function = function
        self._found: list[T] = []
        self.start()

    def run(self) -> None:
        with contextlib.suppress(NoAnswerError):
            self._found.append(self._function())

    def get(self, until: float) -> T:
        """Its value. Raises NoAnswerError where there is none at that time, on the monotonic clock."""
        self.join(max(0.0, until - time.monotonic()))
        if not self._found:
            raise NoAnswerError
        return self._found[0]


class Ran(NamedTuple):
    """How a process ended."""

    # Its status, as a shell says it; None where it had to be ended.
    status: int | None
    # What programs of ours said, in order.
    said: tuple[dict[str, Any], ...]
    stdout: str
    stderr: str
    # One line; empty after status 0.
    cause: str

    @property
    def answer(self) -> dict[str, Any]:
        """All that a program said, in one."""
        return {key: value for said in self.said for key, value in said.items()}


class Processes:
    """The processes that checks start: each is given the same time, and all end with us."""

    def __init__(self, environ: Mapping[str, str], until: float) -> None:
        self.environ = environ
        self.until = until
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._over = False
        self._oom_kills = hardware.memory().oom_kills

    def python(self, code: str, *arguments: str, without: str | None = None) -> Ran:
        """Run a program, which may call ``say(name=value, ...)``, without one variable of the environment."""
        environ = {name: value for name, value in self.environ.items() if name != without}
        return self.run(*program(code), *arguments, environ=environ)

    def run(self, *argv: str, environ: Mapping[str, str] | None = None) -> Ran:
        """Run a command to its end. Raises NoAnswerError when all is over."""
        spec = ProcessSpec(argv[0], argv, self.environ if environ is None else environ, _CWD)
        # Files in memory: a pipe would be held by what a process leaves behind, and the disk may be full.
        with os.fdopen(os.memfd_create("stdout"), "rb") as stdout, os.fdopen(os.memfd_create("stderr"), "rb") as stderr:
            started = time.monotonic()
            try:
                popen = self._start(spec, stdout.fileno(), stderr.fileno())
            except OSError as error:
                return Ran(None, (), "", "", f"cannot be started: {error.strerror}")
            status = self._wait(popen)
            texts = []
            for file in (stdout, stderr):
                file.seek(0)
                texts.append(file.read())
        if status is None:
            cause = f"gave no answer in {time.monotonic() - started:.0f} s"
        else:
            cause = self._cause(spec, status, texts[1])
        out, err = (text.decode(errors="replace") for text in texts)
        return Ran(None if status is None else shell_status(status)[0], _said(out), out, err, cause)

    def end(self) -> None:
        """End all that still run, and let none be started."""
        with self._lock:
            self._over = True
            running = list(self._running)
        _end(running)

    def _start(self, spec: ProcessSpec, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._over:
                raise NoAnswerError
            popen = subprocess.Popen(
                spec.argv,
                env=dict(spec.env),
                cwd=spec.cwd,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
            self._running.add(popen)
        return popen

    def _wait(self, popen: subprocess.Popen[bytes]) -> int | None:
        """Its wait status; None where it did not end in time, or all is over."""
        try:
            popen.wait(max(0.0, self.until - time.monotonic()))
            # Also what it left running.
            _signal(popen, signal.SIGKILL)
        except subprocess.TimeoutExpired:
            _end([popen])
            return None
        finally:
            with self._lock:
                self._running.discard(popen)
        if self._over:
            raise NoAnswerError
        return popen.returncode << 8 if popen.returncode >= 0 else -popen.returncode

    def _cause(self, spec: ProcessSpec, wait_status: int, stderr: bytes) -> str:
        status, number = shell_status(wait_status)
        if status == 0:
            return ""
        if status == SIGNAL_BASE + signal.SIGKILL and hardware.memory().oom_kills > self._oom_kills:
            return "out of memory: the kernel killed it"
        end = Exit(spec, status, number, stderr[-KEPT_BYTES:], None, 0, time.monotonic())
        how = f"ended with status {status}" if number is None else f"was killed by {signal_name(number)}"
        return find_cause(end).message or how


def program(code: str) -> tuple[str, ...]:
    """The command of a Python program that may call ``say(name=value, ...)``."""
    return (sys.executable, "-c", _SAY + code)


def _said(stdout: str) -> tuple[dict[str, Any], ...]:
    found = []
    for text in _SAID.findall(stdout):
        with contextlib.suppress(ValueError):
            found.append(json.loads(text))
    return tuple(found)


def _signal(popen: subprocess.Popen[bytes], number: int) -> None:
    # There may be no such processes any more.
    with contextlib.suppress(OSError):
        os.killpg(popen.pid, number)


def _end(running: list[subprocess.Popen[bytes]]) -> None:
    for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, _KILL_SECONDS)):
        until = time.monotonic() + seconds
        for popen in running:
            _signal(popen, number)
        for popen in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(max(0.0, until - time.monotonic()))
