"""How a transform comes along: a bar on a terminal, and elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Callable

from tf_toolkit.local.terminal import console, say

_SAY_SECONDS = 30.0
_MEGABYTE = 1e6

# Called with how many files are done, and how many bytes of all.
Advance = Callable[[int, int], None]


@contextlib.contextmanager
def shown(files: int, size: int) -> Iterator[Advance]:
    """Show how a transform of so many files, and bytes, comes along."""
    found = console(sys.stderr)
    if found is None:
        yield _Lines(files, size)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=found, transient=True) as progress:
        task = progress.add_task("starting the server", total=size)

        def advance(done: int, completed: int) -> None:
            progress.update(task, description=f"{done} of {files} files", completed=completed)

        yield advance


class _Lines:
    def __init__(self, files: int, size: int) -> None:
        self._files = files
        self._size = size
        self._next = time.monotonic() + _SAY_SECONDS

    def __call__(self, done: int, completed: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SAY_SECONDS
            megabytes = f"{completed / _MEGABYTE:.1f} of {self._size / _MEGABYTE:.1f} MB"
            say(f"{done} of {self._files} files, {megabytes}")
