"""Loading all models while the server listens already, and what the log says of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from tf_toolkit.hardware import cpu_count
from tf_toolkit.serving.errors import ModelError
from tf_toolkit.serving.registry import Load, Servable
from tf_toolkit.serving.settings import LOAD_TIME

log = logging.getLogger("tf_toolkit")


class StartUp:
    """Loads models in threads of its own."""

    def __init__(self, servables: Sequence[Servable], load: Load, limit: float | None, began: float) -> None:
        """``limit`` is in seconds; ``began`` is when the program did, on the monotonic clock."""
        self._servables = servables
        self._load = load
        self._limit = limit
        self._began = began
        self._lock = threading.Lock()
        self._failed = False
        self._when_failed: Callable[[], None] = lambda: None
        threading.Thread(target=self._run, name="start-up", daemon=True).start()

    @property
    def failed(self) -> bool:
        return self._failed

    def when_failed(self, act: Callable[[], None]) -> None:
        """Call ``act``, at once if it has failed already."""
        with self._lock:
            self._when_failed = act
            if self._failed:
                act()

    def _run(self) -> None:
        pool = ThreadPoolExecutor(max_workers=cpu_count(), thread_name_prefix="load")
        futures = {pool.submit(self._load_one, servable): servable for servable in self._servables}
        done, pending = wait(futures, self._limit, FIRST_EXCEPTION)
        failed = [future for future in done if future.exception() is not None]
        for future in failed:
            _tell(futures[future], future.exception())
        if not failed and not pending:
            log.info("ready: all models answer (%.3f s)", time.monotonic() - self._began)
            return
        for future in () if failed else pending:
            log.error("%s did not load within %s s, which %s sets", futures[future], self._limit, LOAD_TIME)
        with self._lock:
            self._failed = True
            self._when_failed()

    def _load_one(self, servable: Servable) -> None:
        began = time.monotonic()
        servable.load(self._load)
        log.info("%s is loaded and has answered (%.3f s)", servable, time.monotonic() - began)
        for line in _signatures(servable):
            log.info("%s: %s", servable, line)


def _tell(servable: Servable, error: BaseException | None) -> None:
    if isinstance(error, ModelError):
        log.error("%s", error)
    else:
        log.error("%s cannot be loaded", servable, exc_info=error)


def _signatures(servable: Servable) -> Iterator[str]:
    # With numpy, which is not to be waited for at the start.
    from tf_toolkit.serving.expectation import tensors

    for name, signature in servable.engine.signatures.items():
        yield f"signature {name}: {tensors(signature.inputs) or 'nothing'} -> {tensors(signature.outputs) or 'nothing'}"
