"""Whether all models answer, now. One that has nothing to do is tried out; one that is at work need not be."""

from __future__ import annotations

import logging
import threading
import time
import weakref

from tf_toolkit.serving.engine import Engine
from tf_toolkit.serving.errors import ModelRunError, RequestError
from tf_toolkit.serving.registry import Registry, Servable, State
from tf_toolkit.serving.signature import DEFAULT_SIGNATURE
from tf_toolkit.serving.warm_up import zeros

log = logging.getLogger("tf_toolkit")

# Since its last answer, after which a model is tried out, which may take up no more than this part of the time.
_FRESH_SECONDS = 5.0
_MOST_OF_THE_TIME = 0.02


class Health:
    """For the event loop alone."""

    def __init__(self, registry: Registry, timeout: float) -> None:
        """A model that takes longer than ``timeout`` seconds hangs."""
        self._registry = registry
        self._timeout = timeout
        self._trials: weakref.WeakKeyDictionary[Servable, _Trial] = weakref.WeakKeyDictionary()

    def trouble(self) -> str | None:
        """Why the server is not fit to be asked, or None. Never waits: what a trial finds counts for the next call."""
        now = time.monotonic()
        reasons = [reason for servable in self._registry if (reason := self._of(servable, now)) is not None]
        return "; ".join(reasons) or None

    def _of(self, servable: Servable, now: float) -> str | None:
        if servable.state is not State.AVAILABLE:
            return f"{servable} is in state {servable.state.name}{servable.error and ': '}{servable.error}"
        trial = self._trials.setdefault(servable, _Trial())
        if trial.began is None and now > max(servable.answered + _FRESH_SECONDS, trial.pause_until):
            trial.began = now
            threading.Thread(target=self._try, args=(servable, trial), name="trial", daemon=True).start()
        if trial.began is not None and now - max(servable.answered, trial.began) > self._timeout:
            return f"{servable} has not answered for {now - servable.answered:.0f} s"
        return trial.failure

    def _try(self, servable: Servable, trial: _Trial) -> None:
        """In a thread."""
        began = time.monotonic()
        try:
            _run_once(servable.engine)
            trial.failure = None
            servable.answered = time.monotonic()
        except RequestError as error:
            trial.failure = f"{servable} fails: {error}"
            log.error("%s", trial.failure)
        finally:
            now = time.monotonic()
            trial.pause_until = now + (now - began) / _MOST_OF_THE_TIME
            trial.began = None


def _run_once(engine: Engine) -> None:
    """Raises RequestError where the model cannot be run; that it is not given what it wants is no fault of it."""
    name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in engine.signatures else next(iter(engine.signatures), None)
    for request in zeros({} if name is None else {name: engine.signatures[name]}):
        try:
            engine.run(request.signature, request.inputs, request.outputs)
        except ModelRunError as error:
            # What the way to the model does not carry, it was not given.
            if error.status >= 500 and error.code != "UNIMPLEMENTED":
                raise


class _Trial:
    """Of one version of a model."""

    # While it goes on.
    began: float | None = None
    pause_until = 0.0
    # What came of the last.
    failure: str | None = None
