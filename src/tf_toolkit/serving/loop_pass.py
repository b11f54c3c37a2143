"""Quick requests that come in one pass of the event loop run together at its end, in the loop.

A model's run, however small, goes through so much of TensorFlow that the processor's caches hold nothing of what parses
and answers requests after it. Once for all of them is cheaper than in turns, and nobody waits: the pass is over when
what came has been parsed. To wait for its end has a price too, which who comes alone is spared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from tf_toolkit.serving.batching import Answer, Batch, Batcher, Kind, Request
from tf_toolkit.serving.engine import Array

# After so many passes with one request in each, requests run at once. Of so many of those, two look for company: one
# might always be the last of a pass.
_ALONE = 8
_LOOKS = 16


class LoopPass:
    """For the event loop alone."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._open: dict[Kind, Batch] = {}
        # Passes with one request, since there was one with more; and requests.
        self._alone = 0
        self._requests = 0

    def is_lonely(self) -> bool:
        """Whether one more request had better run at once, for of late none had company."""
        self._requests += 1
        if self._alone < _ALONE:
            return False
        if self._requests % _LOOKS < 2:
            asyncio.get_running_loop().call_soon(self._look, self._requests)
        return True

    def _look(self, requests: int) -> None:
        """At the end of the pass that began with so many."""
        self._alone = self._alone + 1 if self._requests == requests else 0

    def run(self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None) -> asyncio.Future[Answer]:
        """The answer to come."""
        loop = asyncio.get_running_loop()
        if not self._open:
            # After all that is waiting for its turn already.
            loop.call_soon(self._look, self._requests)
        kind, rows = self._batcher.kind(signature, inputs, None if outputs is None else tuple(outputs))
        batch = None if kind.rows is None else self._open.get(kind)
        if batch is None or batch.rows + rows > self._batcher.max_rows:
            batch = self._open[kind] = Batch(kind)
            loop.call_soon(self._end, batch)
        answer: asyncio.Future[Answer] = loop.create_future()
        batch.add(Request(inputs, rows, answer))
        return answer

    def _end(self, batch: Batch) -> None:
        if self._open.get(batch.kind) is batch:
            del self._open[batch.kind]
        self._batcher.answer(batch)
