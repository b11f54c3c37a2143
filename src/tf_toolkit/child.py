"""One running process of the supervisor: started in a session of its own, its streams passed on, its end told."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TextIO

from tf_toolkit import hardware
from tf_toolkit.errors import ExecuteUserScriptError
from tf_toolkit.pipes import open_pipe
from tf_toolkit.process import Exit, ProcessSpec, die_with_parent, shell_status
from tf_toolkit.stderr import (
    LAST_WORDS_SECONDS,
    LONGEST_END_SECONDS,
    Around,
    Passing,
    Tee,
    masked,
    prefixed,
)

# How long to wait for standard error to drain once every process that wrote to it is gone.
_DRAIN_SECONDS = 10.0


class Child:
    """One running process. Raises ExecuteUserScriptError if it cannot be started."""

    def __init__(self, spec: ProcessSpec, around: Around, dies_with_us: bool) -> None:
        self.spec = spec
        self.oom_kills = hardware.memory().oom_kills
        self.exit: Exit | None = None
        self.stopped_by: int | None = None
        # When it was told to end because another process had failed.
        self.told_at = math.inf
        self.kill_at: float | None = None
        self.when_ended: Callable[[int], None] = lambda status: None
        reader, writer = open_pipe()
        pipes_stdout = spec.ranks or bool(spec.prefix)
        out_reader, out_writer = open_pipe() if pipes_stdout else (-1, -1)
        # The others may have ended before a companion can listen: its TERM must wait until it does, not kill it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM} if spec.companion else set())
        try:
            self.popen = subprocess.Popen(
                list(spec.argv),
                env=dict(spec.env),
                cwd=spec.cwd,
                stdin=subprocess.DEVNULL,
                stdout=writer if spec.stdout_to_stderr else out_writer if pipes_stdout else None,
                stderr=writer,
                start_new_session=True,
                preexec_fn=die_with_parent() if dies_with_us else None,
            )
        except (OSError, ValueError) as error:
            for end in (reader, *([out_reader] if pipes_stdout else [])):
                os.close(end)
            raise ExecuteUserScriptError(_why_not_started(spec, error)) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(writer)
            if pipes_stdout:
                os.close(out_writer)
        self.stderr = Tee(reader, sys.__stderr__, around, _passing(spec, sys.__stderr__))
        self.tees = [self.stderr]
        if pipes_stdout:
            self.tees.append(Tee(out_reader, sys.__stdout__, around, _passing(spec, sys.__stdout__)))
        for tee in self.tees:
            tee.start()

    @property
    def is_script(self) -> bool:
        """Whether the job is over when this and its like have ended."""
        return not self.spec.companion and not self.spec.server

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def ended(self, wait_status: int) -> None:
        status, signal_number = shell_status(wait_status)
        self.popen.returncode = status
        now = time.monotonic()
        dying, told = self.stderr.traceback_at, self.told_at < now
        if signal_number == signal.SIGTERM and self.told_at - LAST_WORDS_SECONDS < dying < self.told_at:
            # Its exception was out, and it was on its way to the end when it was told to.
            status, signal_number, began, told = 1, None, dying, False
        else:
            began = dying if status == 1 and now - dying < LONGEST_END_SECONDS else now
        if self.spec.server and status == 0 and self.told_at == math.inf:
            # It had no reason to end; status 0 is only what it makes of a signal that was not ours.
            status = 1
        self.exit = Exit(
            spec=self.spec,
            status=status,
            signal_number=signal_number,
            stderr=b"",
            stopped_by=self.stopped_by,
            oom_kills=hardware.memory().oom_kills - self.oom_kills,
            began=began,
            told=told,
        )
        self.when_ended(status)

    def report(self) -> Exit:
        assert self.exit is not None
        for tee in self.tees:
            tee.join(_DRAIN_SECONDS)
        return self.exit._replace(stderr=self.stderr.kept.value())


def _passing(spec: ProcessSpec, sink: TextIO | None) -> Passing | None:
    """What happens to a process's streams on their way to ``sink``, which is ours."""
    if spec.ranks:
        from tf_toolkit.lines import Lines  # Only a job under Open MPI pays for it.

        return Lines()
    if spec.prefix:
        return prefixed(spec.prefix, sink)
    return None if spec.secrets is None else masked(spec.secrets)


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
