"""Quick requests that come in one pass of the event loop run together at its end, in the loop.

A model's run, however small, goes through so much of TensorFlow that the processor's caches hold nothing of what parses
and answers requests after it. Once for all of them is cheaper than in turns, and nobody waits: the pass is over when
what came has been parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from tf_toolkit.serving.batching import Answer, Batch, Batcher, Kind, Request
from tf_toolkit.serving.engine import Array


class LoopPass:
    """For the event loop alone."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._open: dict[Kind, Batch] = {}

    def run(self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None) -> asyncio.Future[Answer]:
        """The answer to come."""
        loop = asyncio.get_running_loop()
        kind, rows = self._batcher.kind(signature, inputs, None if outputs is None else tuple(outputs))
        batch = None if kind.rows is None else self._open.get(kind)
        if batch is None or batch.rows + rows > self._batcher.max_rows:
            batch = self._open[kind] = Batch(kind)
            # After all that is waiting for its turn already.
            loop.call_soon(self._end, batch)
        answer: asyncio.Future[Answer] = loop.create_future()
        batch.add(Request(inputs, rows, answer))
        return answer

    def _end(self, batch: Batch) -> None:
        if self._open.get(batch.kind) is batch:
            del self._open[batch.kind]
        self._batcher.answer(batch)
