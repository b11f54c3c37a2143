"""The threads that handlers run in: one that is slow, or never ends, is no hindrance to others or to /ping."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

log = logging.getLogger("tf_toolkit")

_Result = TypeVar("_Result")

# So many that never end are replaced.
_MOST_LOST = 1000


class _Job:
    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.result: Future[Any] = Future()
        self.done = False
        # Nobody waits for it any more, and its thread counts for nothing.
        self.lost = False


class HandlerThreads:
    """Started as they are needed. They do not keep the process from ending."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._threads = 0
        # Given, and not done yet.
        self._jobs_given = 0
        self._lost = 0

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """What ``work`` returns or raises. When the caller is cancelled, work that has not begun never will."""
        job = _Job(work)
        with self._lock:
            self._jobs_given += 1
            self._start_if_needed()
        self._jobs.put(job)
        try:
            result: _Result = await asyncio.wrap_future(job.result)
            return result
        except asyncio.CancelledError:
            if not job.result.cancel():
                self._lose(job)
            raise

    def _start_if_needed(self) -> None:
        if self._jobs_given > self._threads < self._size:
            self._threads += 1
            threading.Thread(target=self._work, name="handler", daemon=True).start()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job.result.set_running_or_notify_cancel():
                try:
                    job.result.set_result(job.work())
                except BaseException as error:  # noqa: BLE001
                    # Whoever waits for it gets it.
                    job.result.set_exception(error)
            with self._lock:
                job.done = True
                if job.lost:
                    self._lost -= 1
                    log.warning("the handler of a request that was given up has ended")
                    return
                self._jobs_given -= 1
            # While it waits for the next, it would hold the handlers of a model that is unloaded.
            del job

    def _lose(self, job: _Job) -> None:
        """Its thread goes on, for none can be stopped; another takes its place."""
        with self._lock:
            if job.done:
                return
            log.warning("the handler of a request that was given up goes on; such handlers now: %d", self._lost + 1)
            if self._lost == _MOST_LOST:
                return
            job.lost = True
            self._lost += 1
            self._threads -= 1
            self._jobs_given -= 1
            self._start_if_needed()
