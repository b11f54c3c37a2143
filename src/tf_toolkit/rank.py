"""One rank: what mpirun and its daemons start in place of the user's script, ``python -m tf_toolkit.rank``.

It starts the script as a child, keeps its lines whole through mpirun, and says how it ended before Open MPI can end
all others.

Arguments: none. Environment: TF_TOOLKIT_DOOR, where this host's launcher listens; PMIX_RANK or OMPI_COMM_WORLD_RANK;
SM_CURRENT_HOST, for the lines' tags. The script gets all but the first.
Says ``{"type": "rank", "rank": R}``; hears ``{"type": "command", "argv": [...], "cwd": ...}``, and then perhaps
``{"type": "signal", "number": N}``, for the script, and ``{"type": "leave"}``.
Says at the script's end ``{"type": "ended", "rank": R, "status": S, "signal": N or null, "stderr": base64 of the last
of its standard error, "age": seconds since its end began, "told": whether it was told to end before}``.
Exit codes: 0 when the script ended so. A script that failed leaves its rank waiting for ``leave`` or mpirun's end, and
then its status is the rank's: mpirun would give the other ranks no time to end. 1 when the launcher is gone, and the
script with it.
"""

from __future__ import annotations

import base64
import contextlib
import math
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tf_toolkit import frames, signals
from tf_toolkit.contract import DOOR, NOT_EXECUTABLE
from tf_toolkit.lines import Marked
from tf_toolkit.pipes import open_pipe
from tf_toolkit.process import die_with_parent, shell_status
from tf_toolkit.stderr import LAST_WORDS_SECONDS, LONGEST_END_SECONDS, LOST, KeptStderr

# What a script left running may hold its streams for ever.
DRAIN_SECONDS = 5.0
# How often to look, once the script has ended, for what nobody tells.
_LOOK_SECONDS = 0.2
_SENT_STDERR_BYTES = 48 * 1024
_GONE = 1
_CHUNK = 32 * 1024
_HEADER = b"Traceback (most recent call last):"
# The traceback of an uncaught exception begins where the program did.
_UNCAUGHT = re.compile(
    rb"Traceback \(most recent call last\):\r?\n[ |]+File .*, in (?:<module>|_run_module_as_main)\r?\n"
)


def main() -> None:
    signals.listen()
    with socket.socket(socket.AF_UNIX) as door:
        try:
            door.connect(os.environ[DOOR])
            rank = int(os.environ.get("PMIX_RANK") or os.environ["OMPI_COMM_WORLD_RANK"])
            frames.send(door, {"type": "rank", "rank": rank})
            command = frames.receive(door)
        except (OSError, ValueError):
            command = None
        except KeyError as error:
            sys.exit(f"tf_toolkit.rank is for mpirun, in a job: {error} is not set")
        if command is None:
            sys.exit(_GONE)
        status = _Rank(door, rank).run(command["argv"], command["cwd"])
        # No end of the interpreter: a pump may still wait for what the script left running.
        os._exit(status)


class _Orders(threading.Thread):
    """Hears what the launcher says."""

    def __init__(self, door: socket.socket) -> None:
        super().__init__(daemon=True)
        self._door = door
        # None at the end: the launcher is gone.
        self.received: list[frames.Message | None] = []

    def run(self) -> None:
        message: frames.Message | None = {}
        while message is not None:
            try:
                message = frames.receive(self._door)
            except (OSError, ValueError):
                message = None
            self.received.append(message)
            signals.wake()


class _Pump(threading.Thread):
    """Passes one stream of the script on in marked lines, and keeps the last of it."""

    def __init__(self, source: int, sink: int, marked: Marked) -> None:
        super().__init__(daemon=True)
        self._source = source
        self._sink = sink
        self._marked = marked
        self.kept = KeptStderr()
        # When the last traceback began, on the monotonic clock.
        self.traceback_at = -math.inf
        self.done = False

    def run(self) -> None:
        end = b""
        while chunk := _read(self._source):
            self.kept.feed(chunk)
            if _HEADER in end + chunk:
                self.traceback_at = time.monotonic()
            end = chunk[1 - len(_HEADER) :]
            self._write(self._marked.feed(chunk))
        self._write(self._marked.flush())
        self.done = True
        signals.wake()

    def _write(self, lines: bytes) -> None:
        view = memoryview(lines)
        while view and self._sink >= 0:
            try:
                view = view[os.write(self._sink, view) :]
            except BlockingIOError:
                select.select([], [self._sink], [])
            except OSError:
                # mpirun's daemon is gone. Go on reading, so that the script does not block.
                self._sink = -1


class _End(NamedTuple):
    """How the script ended, and when its end began, on the monotonic clock."""

    status: int
    signal_number: int | None
    began: float


class _Rank:
    """The script of this rank, from its start to the rank's own end."""

    def __init__(self, door: socket.socket, rank: int) -> None:
        self._door = door
        self._orders = _Orders(door)
        self._rank = rank
        # mpirun or its daemon; without it nobody waits for this rank any more.
        self._parent = os.getppid()
        self._script: subprocess.Popen[bytes] | None = None
        self._end: _End | None = None
        # When it was told to end.
        self._told_at = math.inf
        # The rank's own status, once it is to end at once.
        self._leaves_with: int | None = None

    def run(self, argv: Sequence[str], cwd: str) -> int:
        """Run the script to its end, and say how it ended; the rank's exit status."""
        host = os.environ.get("SM_CURRENT_HOST", "")
        out, out_writer = open_pipe()
        err, err_writer = open_pipe()
        self._pumps = [
            _Pump(out, 1, Marked(self._rank, host, "stdout")),
            _Pump(err, 2, Marked(self._rank, host, "stderr")),
        ]
        try:
            self._script = _start(argv, cwd, out_writer, err_writer)
        except (OSError, ValueError) as error:
            os.write(err_writer, f"{argv[0]} cannot be started: {error}\n".encode(errors="replace"))
            self._end = _End(NOT_EXECUTABLE, None, time.monotonic())
        finally:
            os.close(out_writer)
            os.close(err_writer)
        for thread in (*self._pumps, self._orders):
            thread.start()
        self._serve(self._is_over)
        if self._leaves_with is not None or self._end is None:
            return _GONE if self._leaves_with is None else self._leaves_with
        status = self._say(self._end)
        if status != 0:
            self._serve(lambda: os.getppid() != self._parent)
        return status if self._leaves_with is None else self._leaves_with

    def _is_over(self) -> bool:
        """Whether the script has ended, and what it wrote has been passed on."""
        if self._end is None and self._script is not None:
            pid, wait_status = os.waitpid(self._script.pid, os.WNOHANG)
            if pid == 0:
                return False
            self._end = _End(*shell_status(wait_status), time.monotonic())
            self._script.returncode = self._end.status
        return all(pump.done for pump in self._pumps) or self._drain_time() <= 0

    def _drain_time(self) -> float:
        return math.inf if self._end is None else self._end.began + DRAIN_SECONDS - time.monotonic()

    def _serve(self, done: Callable[[], bool]) -> None:
        """Obey the launcher and forward signals, until ``done`` or told to leave."""
        while self._leaves_with is None and not done():
            signals.sleep(None if self._end is None else _LOOK_SECONDS)
            for number in signals.taken():
                self._pass_on(number)
            while self._orders.received:
                self._obey(self._orders.received.pop(0))

    def _obey(self, message: frames.Message | None) -> None:
        kind = None if message is None else message.get("type")
        if message is not None and kind == "signal":
            self._pass_on(int(message["number"]))
        elif kind == "leave" and self._end is not None:
            self._leaves_with = self._end.status
        elif kind in ("leave", None):
            self._leaves_with = _GONE
            self._send(signal.SIGKILL)

    def _pass_on(self, number: int) -> None:
        if number in signals.ESCALATED:
            self._told_at = min(self._told_at, time.monotonic())
        self._send(number)

    def _send(self, number: int) -> None:
        if self._script is not None and self._end is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._script.pid, number)

    def _say(self, end: _End) -> int:
        """Tell the launcher how the script ended; its status."""
        stderr = self._pumps[1]
        kept = stderr.kept.value()
        now = time.monotonic()
        last = kept.rfind(_HEADER)
        exception_at = stderr.traceback_at if last >= 0 and _UNCAUGHT.match(kept, last) else -math.inf
        if end.signal_number == signal.SIGTERM and self._told_at - LAST_WORDS_SECONDS < exception_at < self._told_at:
            # Its exception was out, and it was on its way to the end when it was told to.
            end = _End(1, None, exception_at)
        elif end.status == 1 and end.began - exception_at < LONGEST_END_SECONDS:
            end = end._replace(began=exception_at)
        message = {
            "type": "ended",
            "rank": self._rank,
            "status": end.status,
            "signal": end.signal_number,
            "stderr": base64.b64encode(_shortened(kept) if end.status else b"").decode("ascii"),
            "age": now - end.began,
            "told": self._told_at < end.began,
        }
        try:
            frames.send(self._door, message)
        except OSError:
            self._leaves_with = _GONE
        return end.status


def _start(argv: Sequence[str], cwd: str, out: int, err: int) -> subprocess.Popen[bytes]:
    """Raises OSError and ValueError."""
    return subprocess.Popen(
        list(argv),
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != DOOR},
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        start_new_session=True,
        # Whoever kills this process means the script.
        preexec_fn=die_with_parent(),
    )


def _read(source: int) -> bytes:
    try:
        return os.read(source, _CHUNK)
    except OSError:
        return b""


def _shortened(stderr: bytes) -> bytes:
    """Its beginning, where the last traceback may be, and its end."""
    half = _SENT_STDERR_BYTES // 2
    return stderr if len(stderr) <= 2 * half else stderr[:half] + LOST + stderr[-half:]


if __name__ == "__main__":
    main()
