"""A process to start and how one ended: values only."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tf_toolkit.contract import SIGNAL_BASE

# Linux, <sys/prctl.h>.
_PR_SET_PDEATHSIG = 1


class Command(NamedTuple):
    """How the user's code is started: what stage 3 found out and stage 4 builds on."""

    # Without the hyperparameter arguments.
    argv: tuple[str, ...]
    # Working directory, and first entry of PYTHONPATH.
    directory: str
    # Relative to the directory; None where another image's training module needs none.
    entry_point: str | None


class ProcessSpec(NamedTuple):
    """A process to start. ``argv`` goes to ``execve`` as it is; no shell ever sees it."""

    role: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    # An installer's chatter belongs to the log, not to the script's standard output.
    stdout_to_stderr: bool = False
    # What its standard error must not show; None passes it through byte for byte, as the script's is.
    secrets: frozenset[str] | None = None
    # A companion serves the others: it gets TERM when they have ended, and KILL after its own grace, in seconds. It is
    # started with TERM blocked, and asks for it when it is ready.
    companion: bool = False
    companion_grace: float = 5.0
    # Serves other hosts too: it lives until the job is over everywhere, and its end before that is a failure.
    server: bool = False
    # Open MPI's own, above the ranks of this host: signals go to these, and their lines come through it in pieces.
    ranks: bool = False
    # Stands before each line of both its streams, which then pass in whole lines.
    prefix: str = ""
    # Tells the others of its failure itself. They are ended only if a signal kills it, after time to hear of it.
    independent: bool = False


class Exit(NamedTuple):
    """How a process ended."""

    spec: ProcessSpec
    # 0 to 255, as a shell says it: 128+N for death by signal N.
    status: int
    # The signal that killed it, or None.
    signal_number: int | None
    # The last of its standard error, and what followed the last traceback header where that is further back.
    stderr: bytes
    # The stop signal that was forwarded to it before it ended, or None.
    stopped_by: int | None
    # Processes of its memory cgroup that the kernel killed for want of memory while it ran.
    oom_kills: int
    # On the monotonic clock, in seconds: when its end began, which is that of its last words if these are a traceback.
    began: float
    # It was told to end because another process had failed, so its end is no cause.
    told: bool = False


def shell_status(wait_status: int) -> tuple[int, int | None]:
    """Status as a shell says it, and the killing signal if any, of a status from ``waitpid``."""
    if os.WIFSIGNALED(wait_status):
        number = os.WTERMSIG(wait_status)
        return SIGNAL_BASE + number, number
    return os.WEXITSTATUS(wait_status), None


def die_with_parent() -> Callable[[], None]:
    """To be called in a child before it becomes another program: KILL comes to it when its parent is gone."""
    import ctypes

    parent, prctl = os.getpid(), ctypes.CDLL(None).prctl

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            # It went before that could be heard of.
            os._exit(1)

    return arrange


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15; ``signal 40`` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
