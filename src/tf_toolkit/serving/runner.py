"""How a request comes to run: at once in the event loop, or in a thread and with others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from time import perf_counter

from tf_toolkit.hardware import cpu_count
from tf_toolkit.serving.batching import Answer, Batcher
from tf_toolkit.serving.engine import Array, Engine
from tf_toolkit.serving.loop_pass import LoopPass
from tf_toolkit.serving.pace import Pace
from tf_toolkit.serving.settings import Batching
from tf_toolkit.serving.signature import Signature
from tf_toolkit.serving.work import size

# A thread costs a request more than this many seconds of the event loop. At first runs are measured in threads, which
# find the processor's caches filled by others, and wait for Python's lock: in the loop the same may take half as long,
# and for several requests at once twice as long, so that what is there already stays a little longer.
_QUICK, _STILL_QUICK = 0.0002, 0.0005
# An input this many times as large as any that ran quickly may not.
_LARGER = 2
# Of different sets of outputs, which requests may choose.
_MOST_KINDS = 1000
# Of batches that nobody has asked for. There are none where there are to be none: no row has room in one.
_ROWS, _NO_ROWS = 64, 0
_WAITING = 1000


class Runner:
    """Runs requests to one model, none of which keeps the event loop for long, as far as earlier ones tell."""

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
            rows = _ROWS if batching.enabled is None else _NO_ROWS
            self._batcher = Batcher(self._engine, rows, 0, _WAITING, cpu_count(), trusting=False)
        self._loop_pass = LoopPass(self._batcher)

    async def run(self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Answer:
        """See Engine.run."""
        if not self._batching.enabled:
            kind = self._engine.kinds.get(signature if outputs is None else (signature, *outputs))
            if kind is not None and kind.is_quick and size(inputs) <= kind.size * _LARGER:
                if self._loop_pass.is_lonely():
                    started = perf_counter()
                    answer = self._engine.engine.run(signature, inputs, outputs)
                    kind.add(perf_counter() - started)
                    return answer
                return await self._loop_pass.run(signature, inputs, outputs)
        return await asyncio.wrap_future(self._batcher.submit(signature, inputs, outputs))

    def close(self) -> None:
        """Take nothing new; what waits gets its answer."""
        self._batcher.close()


class _Measured:
    """The engine, and how long it takes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # By the signature's name alone for all outputs, or with the names of those that are asked for.
        self.kinds: dict[str | tuple[str, ...], _Kind] = {}

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return self.engine.signatures

    def run(self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Answer:
        started = perf_counter()
        answer = self.engine.run(signature, inputs, outputs)
        seconds = perf_counter() - started
        key = signature if outputs is None else (signature, *outputs)
        kind = self.kinds.get(key)
        if kind is None and len(self.kinds) < _MOST_KINDS:
            kind = self.kinds[key] = _Kind()
        if kind is not None:
            kind.add(seconds)
            if kind.is_quick:
                kind.size = max(kind.size, size(inputs))
        return answer

    def close(self) -> None:
        self.engine.close()


class _Kind:
    """Of runs: whether one is going to take no longer than a thread would cost, as far as that can be told."""

    def __init__(self) -> None:
        self._pace = Pace()
        self.is_quick = False
        # Of the largest input that was quick.
        self.size = 0

    def add(self, seconds: float) -> None:
        """Another run."""
        self._pace.add(seconds)
        self.is_quick = self._pace.seconds < (_STILL_QUICK if self.is_quick else _QUICK)
