"""One process of tensorflow_model_server: started, waited for until its models answer, and started again when it ends.

Each has a thread of its own for all its life, for the kernel ends a process whose parent's thread is gone.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from http.client import HTTPException, IncompleteRead

from tf_toolkit.child import Child
from tf_toolkit.errors import ExecuteUserScriptError
from tf_toolkit.masking import masked_arguments
from tf_toolkit.process import Exit, ProcessSpec
from tf_toolkit.serving.errors import ModelError, ModelRunError
from tf_toolkit.serving.model_server_client import Answer, Client
from tf_toolkit.serving.model_server_command import Start, taken
from tf_toolkit.serving.model_server_status import SHOWN, Unfit, has_versions, how_it_ended
from tf_toolkit.serving.settings import LOAD_TIME, TIMEOUT

log = logging.getLogger("tf_toolkit")

# Between looks at a process that is starting, and for the answer to one.
_LOOK_SECONDS = 0.05
_LOOK_TIMEOUT_SECONDS = 5.0
# The first start after an end comes at once; the next ones are further and further apart, up to the longest.
_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
# Once its models have answered for so long, an end has nothing to do with those before it.
_STEADY_SECONDS = 60.0
# For its end to be heard of, once its connections have broken.
_NEWS_SECONDS = 2.0


class _Dies(Exception):
    """In its warm-up."""


class _Life:
    """One start of it."""

    def __init__(self, port: int, timeout: float) -> None:
        self.port = port
        self.client = Client(port, timeout)
        # Set when it has ended, and then why is known.
        self.ended = threading.Event()
        self.why = ""


class ModelServerProcess:
    """The process of this name. Its methods may be called from any thread."""

    def __init__(
        self,
        name: str,
        start: Callable[[], Start],
        status_paths: Mapping[str, int],
        warm_up: Callable[[Callable[..., Answer]], None],
        timeout: float,
        load_time: float | None,
    ) -> None:
        """``status_paths`` are those of the models, with how many versions each has; ``warm_up`` is given ``ask``."""
        self.name = name
        self._new_start = start
        self._status_paths = status_paths
        self._warm_up = warm_up
        self._timeout = timeout
        self._load_time = load_time
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._child: Child | None = None
        # While it answers.
        self._up: _Life | None = None
        # When it began to, the last time that it was started; never, where it did not.
        self._up_since = math.inf
        self._why_down = ""
        self.in_flight = 0
        self.crashes = 0
        # Of the first start: None, or ModelError.
        self.first_start: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_up(self) -> bool:
        return self._up is not None

    @property
    def trouble(self) -> str:
        """Why it does not answer, once it did; or nothing."""
        why = self._why_down
        if self.is_up or not why:
            return ""
        return f"{why}; it is being started again (crashes: {self.crashes})"

    def ask(self, method: str, path: str, body: bytes | None) -> Answer:
        """Raises ModelRunError where there is no answer."""
        life = self._up
        if life is None:
            raise ModelRunError("UNAVAILABLE", self.trouble or f"{self.name} has not started yet")
        with self._lock:
            self.in_flight += 1
        try:
            return self._ask(life, method, path, body)
        finally:
            with self._lock:
                self.in_flight -= 1

    def _ask(self, life: _Life, method: str, path: str, body: bytes | None) -> Answer:
        try:
            return life.client.ask(method, path, body)
        except socket.timeout:
            message = f"{self.name} gave no answer within {self._timeout:g} s, which {TIMEOUT} sets"
            raise ModelRunError("DEADLINE_EXCEEDED", message) from None
        except (OSError, IncompleteRead) as error:
            # The warm-up is in the very thread that the news comes from.
            if threading.current_thread() is not self._thread and life.ended.wait(_NEWS_SECONDS):
                message = f"{life.why} while it was to answer; it is being started again"
            else:
                message = f"{self.name} broke the connection: {error}"
            raise ModelRunError("UNAVAILABLE", message) from None
        except HTTPException as error:
            message = f"{self.name} answered what is no HTTP: {type(error).__name__}: {str(error)[:SHOWN]!r}"
            raise ModelRunError("INTERNAL", message) from None

    def _ask_in_warm_up(self, child: Child, life: _Life, method: str, path: str, body: bytes | None) -> Answer:
        try:
            return self._ask(life, method, path, body)
        except ModelRunError as error:
            deadline = time.monotonic() + _NEWS_SECONDS
            while error.code == "UNAVAILABLE" and time.monotonic() < deadline:
                if _has_ended(child):
                    raise _Dies from None
                time.sleep(_LOOK_SECONDS)
            raise

    def end(self, number: int) -> None:
        """Send it this signal; it is not started again."""
        self._closing.set()
        with self._lock:
            if self._child is not None:
                self._child.send(number)

    def join(self, seconds: float) -> bool:
        """Whether it ends within the time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._live_on()
        except BaseException as error:
            if not self.first_start.done():
                self.first_start.set_exception(error)
            raise

    def _live_on(self) -> None:
        pause = -1.0
        while not self._closing.is_set():
            why = self._live()
            if self._closing.is_set():
                return
            if not self.first_start.done():
                self.first_start.set_exception(ModelError(f"{why}; its models were not loaded"))
                return
            if pause < 0 or time.monotonic() - self._up_since > _STEADY_SECONDS:
                pause = 0.0
            else:
                pause = min(max(_PAUSE_SECONDS, 2 * pause), _LONGEST_PAUSE_SECONDS)
            log.error("%s; it is started again %s", why, f"in {pause:g} s" if pause else "at once")
            self._closing.wait(pause)

    def _live(self) -> str:
        """From its start to its end; why that came."""
        self._up_since = math.inf
        try:
            start = self._new_start()
            why = taken(start.ports)
            if why:
                return self._went_down(f"{self.name} cannot start: {why}")
            log.info("starting %s", shlex.join(masked_arguments(start.argv)))
            child = self._start(start)
        except ExecuteUserScriptError as error:
            return self._went_down(str(error))
        except OSError as error:
            # There are no more ports or descriptors to be had, now.
            return self._went_down(f"{self.name} cannot start: {error.strerror}")
        life = _Life(start.ports.rest, self._timeout)
        why = ""
        try:
            if self._gets_ready(child, life):
                self._up, self._up_since = life, time.monotonic()
                if not self.first_start.done():
                    self.first_start.set_result(None)
        except Unfit as error:
            why = str(error)
            child.send(signal.SIGKILL)
        end = self._end_of(child)
        life.why = self._went_down(f"{self.name} {why or how_it_ended(end)}")
        life.ended.set()
        life.client.close()
        return life.why

    def _start(self, start: Start) -> Child:
        spec = ProcessSpec(
            role=self.name,
            argv=tuple(start.argv),
            env=start.environ,
            cwd=".",
            stdout_to_stderr=True,
            prefix=f"{self.name}: ",
        )
        with self._lock:
            # What is closing has seen it, or it is not started any more.
            if self._closing.is_set():
                raise ExecuteUserScriptError(f"{self.name} is not needed any more")
            self._child = child = Child(spec, lambda piece: contextlib.nullcontext(), dies_with_us=True)
        return child

    def _went_down(self, why: str) -> str:
        if not self._closing.is_set():
            self.crashes += 1
        self._why_down, self._up = why, None
        return why

    def _end_of(self, child: Child) -> Exit:
        os.waitid(os.P_PID, child.popen.pid, os.WEXITED | os.WNOWAIT)
        # What it may have started, as long as the number is its own.
        child.send(signal.SIGKILL)
        with self._lock:
            self._child = None
            _, status = os.waitpid(child.popen.pid, 0)
        child.ended(status)
        return child.report()

    def _gets_ready(self, child: Child, life: _Life) -> bool:
        """Whether all its models have answered; it may have ended before. Raises Unfit."""
        began = time.monotonic()
        # Whoever waits for the first start sees to its time.
        limit = self._load_time if self.first_start.done() else None
        looks = Client(life.port, _LOOK_TIMEOUT_SECONDS)
        missing = self._status_paths
        while not _has_ended(child) and not self._closing.wait(_LOOK_SECONDS):
            missing = {path: count for path, count in missing.items() if not has_versions(looks, path, count)}
            if not missing:
                looks.close()
                with contextlib.suppress(_Dies):
                    self._warm_up(functools.partial(self._ask_in_warm_up, child, life))
                return not _has_ended(child)
            if limit is not None and time.monotonic() - began > limit:
                raise Unfit(f"did not load its models within {limit} s, which {LOAD_TIME} sets")
        return False


def _has_ended(child: Child) -> bool:
    return os.waitid(os.P_PID, child.popen.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
