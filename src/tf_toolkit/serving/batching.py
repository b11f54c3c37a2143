"""Requests that wait for one another's end run together: a batch costs a model little more than a row.

No timer holds back the first of them, unless one is asked for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from tf_toolkit.serving.engine import Array, Engine
from tf_toolkit.serving.errors import ModelRunError
from tf_toolkit.serving.signature import Signature

Answer = dict[str, Array]

# TensorFlow Serving's words.
_FULL = "The batch scheduling queue to which this task was submitted is full"
# Batches of different requests that are held against a request run alone, before a model is taken at its word.
_PROOFS = 3
# What another order of the same additions may change, of the largest number.
_TOLERANCE = 1e-3


class _Request(NamedTuple):
    inputs: Mapping[str, Array]
    rows: int
    answer: Future[Answer]


class _Kind(NamedTuple):
    """What requests of one batch have in common."""

    signature: str
    outputs: tuple[str, ...] | None
    # Of each input: type, and shape of a row. Nothing is like a request that has none.
    rows: tuple[tuple[str, tuple[int, ...]], ...] | None


class _Batch:
    def __init__(self, kind: _Kind) -> None:
        self.kind = kind
        self.requests: list[_Request] = []
        self.rows = 0
        self.since = time.monotonic()

    def add(self, request: _Request) -> None:
        self.requests.append(request)
        self.rows += request.rows


class Batcher:
    """Runs requests in threads, together where they fit. Not ``trusting``, it does so only where that changes nothing:
    for signatures that say they take any number of rows, and as long as first batches give what single requests give.
    """

    def __init__(
        self,
        engine: Engine,
        max_batch_size: int,
        timeout_micros: int,
        max_enqueued_batches: int,
        threads: int,
        trusting: bool,
    ) -> None:
        self._engine = engine
        self._max_rows = max_batch_size
        self._timeout = timeout_micros / 1e6
        self._max_batches = max_enqueued_batches
        self._trusting = trusting
        # A task for each batch; which one it gets is decided when it begins.
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="run")
        self._changed = threading.Condition()
        self._waiting: deque[_Batch] = deque()
        self._open: dict[_Kind, _Batch] = {}
        self._closed = False
        # How often batches of a signature were right; None once one was not.
        self._proofs: dict[tuple[str, tuple[str, ...] | None], int | None] = {}

    def submit(self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None) -> Future[Answer]:
        """The answer to come. Raises ModelRunError where too much waits already."""
        kind, rows = self._kind(signature, inputs, None if outputs is None else tuple(outputs))
        request = _Request(inputs, rows, Future())
        with self._changed:
            batch = self._open.get(kind)
            if batch is None or batch.rows + rows > self._max_rows:
                if self._closed:
                    raise ModelRunError("UNAVAILABLE", "the model is being unloaded")
                if len(self._waiting) >= self._max_batches:
                    raise ModelRunError("UNAVAILABLE", _FULL)
                batch = _Batch(kind)
                self._waiting.append(batch)
                if kind.rows is not None:
                    self._open[kind] = batch
                self._threads.submit(self._run_next)
            batch.add(request)
            if batch.rows >= self._max_rows:
                self._changed.notify_all()
        return request.answer

    def close(self) -> None:
        """Take nothing new, and return when all that waits has its answer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._threads.shutdown()

    def _kind(self, name: str, inputs: Mapping[str, Array], outputs: tuple[str, ...] | None) -> tuple[_Kind, int]:
        alone = _Kind(name, outputs, None), 1
        signature = self._engine.signatures.get(name)
        sizes = {array.shape[:1] for array in inputs.values()}
        if signature is None or len(sizes) != 1 or sizes == {()} or inputs.keys() != signature.inputs.keys():
            return alone
        if self._proofs.get((name, outputs), 0) is None or not (self._trusting or _takes_rows(signature)):
            return alone
        rows = tuple((str(inputs[key].dtype), inputs[key].shape[1:]) for key in signature.inputs)
        return _Kind(name, outputs, rows), sizes.pop()[0]

    def _run_next(self) -> None:
        batch = self._next()
        # Whoever has given up waiting is left out.
        requests = [request for request in batch.requests if request.answer.set_running_or_notify_cancel()]
        try:
            if len(requests) > 1 and self._run_together(batch.kind, requests):
                return
            for request in requests:
                try:
                    request.answer.set_result(self._run(batch.kind, request.inputs))
                except ModelRunError as error:
                    request.answer.set_exception(error)
        except BaseException as error:
            for request in requests:
                if not request.answer.done():
                    request.answer.set_exception(error)
            raise

    def _next(self) -> _Batch:
        """The oldest batch that need not wait for more, when there is one."""
        with self._changed:
            while True:
                now = time.monotonic()
                for batch in self._waiting:
                    ends = batch.since + self._timeout
                    if self._closed or batch.kind.rows is None or batch.rows >= self._max_rows or ends <= now:
                        self._waiting.remove(batch)
                        if self._open.get(batch.kind) is batch:
                            del self._open[batch.kind]
                        return batch
                self._changed.wait(self._waiting[0].since + self._timeout - now)

    def _run(self, kind: _Kind, inputs: Mapping[str, Array]) -> Answer:
        return self._engine.run(kind.signature, inputs, kind.outputs)

    def _run_together(self, kind: _Kind, requests: list[_Request]) -> bool:
        """Whether that gave each its answer."""
        inputs = {name: np.concatenate([request.inputs[name] for request in requests]) for name in requests[0].inputs}
        ends = np.cumsum([request.rows for request in requests])
        try:
            answer = self._run(kind, inputs)
        except ModelRunError:
            # One of them may be to blame, which has to be found out.
            return False
        if any(array.shape[:1] != (ends[-1],) for array in answer.values()):
            self._proofs[kind[:2]] = None
            return False
        parts = {name: np.split(array, ends[:-1]) for name, array in answer.items()}
        answers = [dict(zip(parts, each)) for each in zip(*parts.values())]
        if not self._trusting and not self._proven(kind, requests, answers[0]):
            return False
        for request, each in zip(requests, answers):
            request.answer.set_result(each)
        return True

    def _proven(self, kind: _Kind, requests: list[_Request], first: Answer) -> bool:
        """Whether rows do not depend on their neighbours, as far as the first batches show."""
        proofs = self._proofs.get(kind[:2], 0)
        if proofs is None or proofs >= _PROOFS:
            return proofs is not None
        try:
            alone = self._run(kind, requests[0].inputs)
        except ModelRunError:
            alone = {}
        if not alone or not all(_close(first[name], alone[name]) for name in alone):
            self._proofs[kind[:2]] = None
            return False
        # Of equal requests much can be computed together and come out right.
        if any(not _same(requests[0].inputs, request.inputs) for request in requests[1:]):
            self._proofs[kind[:2]] = proofs + 1
        return True


def _takes_rows(signature: Signature) -> bool:
    """Any number of them, and what comes out for one has a size of its own."""
    inputs, outputs = ([info.shape for info in infos.values()] for infos in (signature.inputs, signature.outputs))
    return all(shape and shape[0] == -1 for shape in (*inputs, *outputs)) and all(
        shape is not None and -1 not in shape[1:] for shape in outputs
    )


def _same(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def _close(one: Array, other: Array) -> bool:
    if one.shape != other.shape or one.dtype.kind not in "fc":
        return bool(np.array_equal(one, other))
    finite = np.abs(other[np.isfinite(other)])
    return bool(np.allclose(one, other, _TOLERANCE, _TOLERANCE * finite.max(initial=0), equal_nan=True))
