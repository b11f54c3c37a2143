"""Pipes and FIFOs that hold more than they do by themselves: pipe(7)."""

from __future__ import annotations

import contextlib
import fcntl
import os

# What anybody may ask for.
LARGEST = 1 << 20
_PIPE_SIZE = 256 * 1024
# fcntl.F_SETPIPE_SZ, which Python names from 3.10 on.
_F_SETPIPE_SZ = 1031


def open_pipe() -> tuple[int, int]:
    """A pipe that holds much, so that a script that writes much seldom waits."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    widen(writer, _PIPE_SIZE)
    return reader, writer


def widen(descriptor: int, size: int) -> None:
    """Have a pipe or FIFO hold so many bytes; where that is refused it stays as it is. A user has 64 MiB in all."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, size)
