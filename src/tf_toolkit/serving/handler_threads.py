"""The threads that handlers run in: one that is slow, or never ends, is no hindrance to others or to /ping."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.hardware import cpu_count

log = logging.getLogger("tf_toolkit")

_Result = TypeVar("_Result")

_WORKERS = "SAGEMAKER_MODEL_SERVER_WORKERS"
# Of the image before this one, which has that many processes of so many threads.
_PROCESSES, _THREADS = "SAGEMAKER_GUNICORN_WORKERS", "SAGEMAKER_GUNICORN_THREADS"
# As a rule handlers wait: for the model, or for another service.
_LEAST, _MOST = 16, 1000
# So many that never end are replaced.
_MOST_LOST = 1000


def thread_count(environ: Mapping[str, str]) -> int:
    """How many requests handlers may be at work on at once. Raises JobDescriptionError."""
    workers, processes, threads = (_number(environ, name) for name in (_WORKERS, _PROCESSES, _THREADS))
    if workers is not None:
        return workers
    if processes is None and threads is None:
        return max(_LEAST, cpu_count())
    return min((processes or 1) * (threads or 1), _MOST)


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:5]) <= _MOST:
        raise JobDescriptionError(f"{name} is {text!r}; expected a whole number from 1 to {_MOST}")
    return int(text)


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
