"""Requests that wait for one another's end run together: a batch costs a model little more than a row.

No timer holds back the first of them, unless one is asked for.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Optional

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


# A signature, and the outputs that are asked for.
_Of = tuple[str, Optional[tuple[str, ...]]]


class Request(NamedTuple):
    """One of a batch."""

    inputs: Mapping[str, Array]
    rows: int
    # Of a thread, or of the event loop.
    answer: Future[Answer] | asyncio.Future[Answer]


class Kind(NamedTuple):
    """What requests of one batch have in common."""

    signature: str
    outputs: tuple[str, ...] | None
    # Of each input: name, number of the type, and shape of a row. Nothing is like a request that has none.
    rows: tuple[tuple[str, int, tuple[int, ...]], ...] | None


class Batch:
    """Requests that run together."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.requests: list[Request] = []
        self.rows = 0
        self.since = time.monotonic()

    def add(self, request: Request) -> None:
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
        self.max_rows = max_batch_size
        self._timeout = timeout_micros / 1e6
        self._max_batches = max_enqueued_batches
        self._trusting = trusting
        # Signatures.
        self._take_rows = {name for name, each in engine.signatures.items() if trusting or _takes_rows(each)}
        # A task for each batch; which one it gets is decided when it begins.
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="run")
        self._changed = threading.Condition()
        self._waiting: deque[Batch] = deque()
        self._open: dict[Kind, Batch] = {}
        self._closed = False
        # How often batches were right: those of a signature and outputs, of equal requests or not. Once one was wrong,
        # its signature and outputs are here.
        self._proofs: Counter[tuple[_Of, bool]] = Counter()
        self._refuted: set[_Of] = set()

    def submit(self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None) -> Future[Answer]:
        """The answer to come. Raises ModelRunError where too much waits already."""
        kind, rows = self.kind(signature, inputs, None if outputs is None else tuple(outputs))
        answer: Future[Answer] = Future()
        with self._changed:
            batch = self._open.get(kind)
            if batch is None or batch.rows + rows > self.max_rows:
                if self._closed:
                    raise ModelRunError("UNAVAILABLE", "the model is being unloaded")
                if len(self._waiting) >= self._max_batches:
                    raise ModelRunError("UNAVAILABLE", _FULL)
                batch = Batch(kind)
                self._waiting.append(batch)
                if kind.rows is not None:
                    self._open[kind] = batch
                self._threads.submit(self._run_next)
            batch.add(Request(inputs, rows, answer))
            if kind.rows is None or batch.rows >= self.max_rows:
                self._changed.notify_all()
        return answer

    def close(self) -> None:
        """Take nothing new; what waits gets its answer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._threads.shutdown(wait=False)

    def kind(self, name: str, inputs: Mapping[str, Array], outputs: tuple[str, ...] | None) -> tuple[Kind, int]:
        """What the request may run together with, and how many rows it has."""
        if name in self._take_rows and (name, outputs) not in self._refuted:
            shapes = [array.shape for array in inputs.values()]
            sizes = {shape[:1] for shape in shapes}
            if len(sizes) == 1 and sizes != {()} and inputs.keys() == self._engine.signatures[name].inputs.keys():
                rows = tuple([(key, array.dtype.num, array.shape[1:]) for key, array in inputs.items()])
                return Kind(name, outputs, rows), shapes[0][0]
        return Kind(name, outputs, None), 1

    def _run_next(self) -> None:
        self.answer(self._next())

    def answer(self, batch: Batch) -> None:
        """Run the requests of a batch, in the thread that calls."""
        # Whoever has given up waiting is left out.
        requests = [request for request in batch.requests if _is_waited_for(request.answer)]
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

    def _next(self) -> Batch:
        """The oldest batch that need not wait for more, when there is one."""
        with self._changed:
            while True:
                now = time.monotonic()
                for batch in self._waiting:
                    ends = batch.since + self._timeout
                    if self._closed or batch.kind.rows is None or batch.rows >= self.max_rows or ends <= now:
                        self._waiting.remove(batch)
                        if self._open.get(batch.kind) is batch:
                            del self._open[batch.kind]
                        return batch
                self._changed.wait(self._waiting[0].since + self._timeout - now)

    def _run(self, kind: Kind, inputs: Mapping[str, Array]) -> Answer:
        return self._engine.run(kind.signature, inputs, kind.outputs)

    def _run_together(self, kind: Kind, requests: list[Request]) -> bool:
        """Whether that gave each its answer."""
        inputs = {name: np.concatenate([request.inputs[name] for request in requests]) for name in requests[0].inputs}
        ends = list(itertools.accumulate(request.rows for request in requests))
        try:
            answer = self._run(kind, inputs)
        except ModelRunError:
            # One of them may be to blame, which has to be found out.
            return False
        if any(array.shape[:1] != (ends[-1],) for array in answer.values()):
            self._refuted.add(kind[:2])
            return False
        answers = [{name: array[start:end] for name, array in answer.items()} for start, end in zip([0, *ends], ends)]
        if not self._trusting and not self._proven(kind, requests, answers[0]):
            return False
        for request, each in zip(requests, answers):
            request.answer.set_result(each)
        return True

    def _proven(self, kind: Kind, requests: list[Request], first: Answer) -> bool:
        """Whether rows do not depend on their neighbours, as far as the first batches show."""
        of = kind[:2]
        if of in self._refuted or self._proofs[of, False] >= _PROOFS:
            return of not in self._refuted
        # Of equal requests much can be computed together and come out right: they say nothing of others.
        equal = all(_same(requests[0].inputs, request.inputs) for request in requests[1:])
        if self._proofs[of, equal] >= _PROOFS:
            return True
        try:
            alone = self._run(kind, requests[0].inputs)
        except ModelRunError:
            alone = {}
        if not alone or not all(_close(first[name], alone[name]) for name in alone):
            self._refuted.add(of)
            return False
        self._proofs[of, equal] += 1
        return True


def _is_waited_for(answer: Future[Answer] | asyncio.Future[Answer]) -> bool:
    """From now on nobody who waits for it in another thread can give up."""
    return answer.set_running_or_notify_cancel() if isinstance(answer, Future) else not answer.done()


def _takes_rows(signature: Signature) -> bool:
    """Any number of them, and what comes out for one has a size of its own."""
    inputs, outputs = ([info.shape for info in infos.values()] for infos in (signature.inputs, signature.outputs))
    return all(shape and shape[0] == -1 for shape in (*inputs, *outputs)) and all(
        shape is not None and -1 not in shape[1:] for shape in outputs
    )


def _same(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return all(_value(one[name]) == _value(other[name]) for name in one)


def _value(array: Array) -> object:
    """For comparisons: of numbers this is fast, and NaN is like NaN."""
    return array.tolist() if array.dtype == object else array.tobytes()


def _close(one: Array, other: Array) -> bool:
    if one.shape != other.shape or one.dtype.kind not in "fc":
        return bool(np.array_equal(one, other))
    finite = np.abs(other[np.isfinite(other)])
    return bool(np.allclose(one, other, _TOLERANCE, _TOLERANCE * finite.max(initial=0), equal_nan=True))
