"""How a request comes to run: at once in the event loop, or in a thread and with others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from tf_toolkit.hardware import cpu_count
from tf_toolkit.serving.batching import Answer, Batcher
from tf_toolkit.serving.engine import Array, Engine
from tf_toolkit.serving.settings import Batching
from tf_toolkit.serving.signature import Signature

# A thread costs a request more than this many seconds of the event loop.
_QUICK = 0.0001
# What one run that was held up may add to the measure.
_RISE = 1.5
# An input this many times as large as any that ran quickly may not.
_LARGER = 2
# Of different sets of outputs, which requests may choose.
_MOST_PACES = 1000
# Of batches that nobody has asked for.
_ROWS = 64
_WAITING = 1000


class Runner:
    """Runs requests to one model, none of which keeps the event loop for long."""

    def __init__(self, engine: Engine, batching: Batching) -> None:
        self._engine = _Measured(engine)
        self._batching = batching
        if batching.enabled:
            self._batcher = Batcher(
                self._engine,
                batching.max_batch_size,
                batching.timeout_micros,
                batching.max_enqueued_batches,
                batching.threads,
                trusting=True,
            )
        else:
            self._batcher = Batcher(self._engine, _ROWS, 0, _WAITING, cpu_count(), trusting=False)

    async def run(self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Answer:
        """See Engine.run."""
        if not self._batching.enabled and self._engine.quick(signature, inputs, outputs):
            return self._engine.run(signature, inputs, outputs)
        return await asyncio.wrap_future(self._batcher.submit(signature, inputs, outputs))

    def close(self) -> None:
        """Take nothing new, and return when all that waits has its answer."""
        self._batcher.close()


class _Measured:
    """The engine, and how long it takes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._paces: dict[tuple[str, tuple[str, ...] | None], _Pace] = {}

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return self._engine.signatures

    def quick(self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None) -> bool:
        """Whether it is going to take no longer than a thread would cost, as far as that can be told."""
        pace = self._paces.get((signature, None if outputs is None else tuple(outputs)))
        return pace is not None and pace.seconds < _QUICK and _size(inputs) <= pace.size * _LARGER

    def run(self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Answer:
        started = time.perf_counter()
        answer = self._engine.run(signature, inputs, outputs)
        seconds = time.perf_counter() - started
        key = signature, None if outputs is None else tuple(outputs)
        pace = self._paces.get(key)
        if pace is None and len(self._paces) < _MOST_PACES:
            pace = self._paces[key] = _Pace()
        if pace is not None:
            pace.seconds = min(seconds, pace.seconds * _RISE)
            if seconds < _QUICK:
                pace.size = max(pace.size, _size(inputs))
        return answer

    def close(self) -> None:
        self._engine.close()


class _Pace:
    def __init__(self) -> None:
        # What a run takes of late.
        self.seconds = float("inf")
        # Of the largest input that was quick.
        self.size = 0


def _size(inputs: Mapping[str, Array]) -> int:
    """In bytes."""
    return sum(
        array.nbytes + (sum(map(len, array.ravel().tolist())) if array.dtype.kind == "O" else 0)
        for array in inputs.values()
    )
