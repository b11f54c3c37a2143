"""Stage 5, run: spawn, forward signals, reap, pass standard error through, escalate.

Handlers only record; one loop acts. Standard output is the container's own, inherited. Standard error passes through
a thread per process, bytes in, the same bytes out, so that a reader who is slow or gone never keeps the loop from a
signal.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import subprocess
import time
from collections.abc import Sequence

from tf_toolkit import hardware, signals
from tf_toolkit.errors import ExecuteUserScriptError
from tf_toolkit.process import Exit, ProcessSpec, shell_status
from tf_toolkit.stderr import Around, Tee, open_pipe

# What a script leaves running when it ends gets TERM, and after this KILL.
LEFTOVER_GRACE_SECONDS = 5.0
# How long to wait for standard error to drain once every process that wrote to it is gone.
DRAIN_SECONDS = 10.0
_PR_SET_CHILD_SUBREAPER = 36


def run(specs: Sequence[ProcessSpec], stop_grace: float, around: Around = contextlib.nullcontext) -> tuple[Exit, ...]:
    """Run processes to their end, and return how each ended, in order.

    The first to fail ends the others. Companions end when the others have. Whatever any of them left running is ended
    too. A stop signal is forwarded; KILL follows after ``stop_grace`` seconds.

    Raises ExecuteUserScriptError if one cannot be started.
    """
    with signals.interruptible(False):
        running = _Run(specs, stop_grace, around)
        # Not before: the script is on its way meanwhile, and has no orphans yet.
        _adopt_orphans()
        return running.to_the_end()


class _Child:
    """One running process."""

    def __init__(self, spec: ProcessSpec, around: Around) -> None:
        self.spec = spec
        self.oom_kills = hardware.memory().oom_kills
        self.exit: Exit | None = None
        self.stopped_by: int | None = None
        self.kill_at: float | None = None
        reader, writer = open_pipe()
        # The others may have ended before a companion can listen: its TERM must wait until it does, not kill it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM} if spec.companion else set())
        try:
            self.popen = subprocess.Popen(
                list(spec.argv),
                env=dict(spec.env),
                cwd=spec.cwd,
                stdin=subprocess.DEVNULL,
                stdout=writer if spec.stdout_to_stderr else None,
                stderr=writer,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            os.close(reader)
            raise ExecuteUserScriptError(_why_not_started(spec, error)) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(writer)
        self.stderr = Tee(reader, around, spec.secrets)
        self.stderr.start()

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def ended(self, wait_status: int) -> None:
        status, signal_number = shell_status(wait_status)
        self.popen.returncode = status
        self.exit = Exit(
            spec=self.spec,
            status=status,
            signal_number=signal_number,
            stderr=b"",
            stopped_by=self.stopped_by,
            oom_kills=hardware.memory().oom_kills - self.oom_kills,
            ended=time.monotonic(),
        )

    def report(self) -> Exit:
        assert self.exit is not None
        self.stderr.join(DRAIN_SECONDS)
        return self.exit._replace(stderr=self.stderr.kept.value())


class _Run:
    def __init__(self, specs: Sequence[ProcessSpec], stop_grace: float, around: Around) -> None:
        self.stop_grace = stop_grace
        self.stop_at: float | None = None
        self.children: list[_Child] = []
        try:
            for spec in specs:
                self.children.append(_Child(spec, around))
        except ExecuteUserScriptError:
            self._end_all()
            raise

    def to_the_end(self) -> tuple[Exit, ...]:
        main = [child for child in self.children if not child.spec.companion]
        companions = [child for child in self.children if child.spec.companion]
        self._wait_for(main)
        self._end_leftovers(companions)
        for child in companions:
            self._stop(child, min(child.spec.companion_grace, self._time_left()))
        self._wait_for(companions)
        self._end_leftovers([])
        return tuple(child.report() for child in self.children)

    def _time_left(self) -> float:
        """What a stop that was asked for leaves of the grace; the platform's own KILL ends even the report."""
        return math.inf if self.stop_at is None else max(0.0, self.stop_at - time.monotonic())

    def _wait_for(self, children: Sequence[_Child]) -> None:
        while running := [child for child in children if child.exit is None]:
            self._forward(running)
            now = time.monotonic()
            for child in running:
                if child.kill_at is not None and now >= child.kill_at:
                    child.send(signal.SIGKILL)
                    child.kill_at = None
            if not self._reap():
                deadlines = [child.kill_at for child in running if child.kill_at is not None]
                signals.sleep(min(deadlines) - now if deadlines else None)
            if any(child.exit is not None and child.exit.status != 0 for child in children):
                for child in running:
                    if child.exit is None and child.kill_at is None:
                        self._stop(child, self.stop_grace)

    def _forward(self, running: Sequence[_Child]) -> None:
        for number in signals.taken():
            if number in signals.ESCALATED and self.stop_at is None:
                self.stop_at = time.monotonic() + self.stop_grace
            for child in running:
                # A companion ends after the others, and is told so then.
                if child.spec.companion:
                    continue
                if number in signals.STOP:
                    child.stopped_by = child.stopped_by or number
                if number in signals.ESCALATED and child.kill_at is None:
                    child.kill_at = self.stop_at
                child.send(number)

    def _stop(self, child: _Child, grace: float) -> None:
        if child.exit is None:
            child.send(signal.SIGTERM)
            child.kill_at = time.monotonic() + grace

    def _reap(self) -> bool:
        """Collect every process that has ended, ours and orphans; whether one was ours."""
        found = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            for child in self.children:
                if child.popen.pid == pid and child.exit is None:
                    child.ended(status)
                    found = True

    def _end_leftovers(self, spared: Sequence[_Child]) -> None:
        """End what the processes left behind: orphans come to us, so whoever is still our child is one."""
        kill_at = time.monotonic() + LEFTOVER_GRACE_SECONDS
        give_up_at = kill_at + LEFTOVER_GRACE_SECONDS
        told: set[int] = set()
        while time.monotonic() < give_up_at:
            self._reap()
            number = signal.SIGTERM if time.monotonic() < kill_at else signal.SIGKILL
            leftovers = _descendants({child.popen.pid for child in spared})
            if not leftovers:
                return
            for pid in leftovers:
                if pid not in told or number == signal.SIGKILL:
                    told.add(pid)
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)
            signals.sleep(0.1)

    def _end_all(self) -> None:
        for child in self.children:
            child.send(signal.SIGKILL)
        self._wait_for(self.children)


def _descendants(spared: set[int]) -> list[int]:
    """Processes below this one, without the spared and what is below them."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return []
    import psutil

    me = psutil.Process()
    found: list[int] = []
    for child in me.children():
        if child.pid in spared:
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child.pid, *(below.pid for below in child.children(recursive=True))]
    return found


def _adopt_orphans() -> None:
    """Have the orphans of our processes given to us, as PID 1 has anyway, so that none outlives the job."""
    if os.getpid() == 1:
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _why_not_started(spec: ProcessSpec, error: OSError | ValueError) -> str:
    program = spec.argv[0]
    if not isinstance(error, OSError):
        return f"{program} cannot be started: {error}"
    remedies = {
        errno.ENOENT: "there is no such file, or its first line (#!) names an interpreter that is not in the image",
        errno.EACCES: "it is not executable, or lies on a file system mounted noexec",
        errno.ENOEXEC: "it is neither a program for this machine nor a script with a '#!' line",
        errno.E2BIG: "its arguments and environment are more than the kernel takes",
    }
    return (
        f"{program} cannot be started: {os.strerror(error.errno or 0)}: {remedies.get(error.errno or 0, 'see the log')}"
    )
