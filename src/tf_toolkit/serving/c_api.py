"""The engine on TensorFlow's C API."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from tf_toolkit.serving import checks, saved_model, wire
from tf_toolkit.serving.c_library import Output, failure, fault, library
from tf_toolkit.serving.c_tensors import STRING, TYPES, Tensors
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import ModelError, ModelRunError
from tf_toolkit.serving.pace import Pace
from tf_toolkit.serving.signature import NUMPY_TYPES, Signature, TensorInfo

try:
    import tf_toolkit_session

    CompiledCall: Any = tf_toolkit_session.Call
except ImportError:
    # It is not installed, or was where no compiler is.
    CompiledCall = None

# tensorflow/core/protobuf/config.proto, ConfigProto.
_INTRA_OP, _INTER_OP, _GPU_OPTIONS, _SOFT_PLACEMENT = 2, 5, 6, 7
# GPUOptions.
_ALLOW_GROWTH = 4
# RunOptions: the thread that calls does the work itself.
_INTER_OP_THREAD_POOL = 3
_IN_CALLER = wire.varint_field(_INTER_OP_THREAD_POOL, -1)
# What takes longer than this many seconds may gain by TensorFlow's own threads: branches of the graph run side by side.
# session/ has this number too.
_LONG = 0.001
# TensorFlow keeps a plan for each set of outputs that was asked for. Above this many all outputs are computed.
_MOST_CALLS = 64


def load(directory: Path, intra_op: int = 0, inter_op: int = 0) -> CApiEngine:
    """The model of that directory; 0 threads are as many as TensorFlow likes.

    Raises ModelError, or OSError where TensorFlow's library cannot be used.
    """
    signatures = saved_model.read(directory)
    session = _Session(library(), directory, config(intra_op, inter_op))
    return CApiEngine(signatures, session)


def config(intra_op: int, inter_op: int) -> bytes:
    """A ConfigProto."""
    # Memory of a GPU is taken as it is needed, for other models and programs want some.
    gpu = wire.varint_field(_ALLOW_GROWTH, 1)
    # A model that was saved with places on a GPU runs where there is none.
    message = wire.varint_field(_SOFT_PLACEMENT, 1) + wire.bytes_field(_GPU_OPTIONS, gpu)
    for number, threads in ((_INTRA_OP, intra_op), (_INTER_OP, inter_op)):
        if threads:
            message += wire.varint_field(number, threads)
    return message


class CApiEngine:
    """An Engine."""

    def __init__(self, signatures: Mapping[str, Signature], session: _Session) -> None:
        self.signatures = signatures
        # Runs hold it, so that it is freed only after the last.
        self._session: _Session | None = session
        # By the signature's name alone for all outputs, or with the names of those that are asked for.
        self._calls: dict[str | tuple[str, ...], _Call] = {}

    def run(
        self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        session = self._session
        if session is None:
            raise checks.unloaded()
        key = signature if outputs is None else (signature, *outputs)
        call = self._calls.get(key) or self._new_call(session, key)
        found = call.compiled(inputs) if call.compiled else None
        if found is None:
            found = session.run(call, inputs)
        elif type(found) is tuple:
            raise ModelRunError(*fault(*found))
        return found if outputs is None else {name: found[name] for name in outputs}

    def _new_call(self, session: _Session, key: str | tuple[str, ...]) -> _Call:
        name, outputs = (key, None) if isinstance(key, str) else (key[0], sorted({*key[1:]}))
        signature = checks.signature_named(self.signatures, name)
        fetched = checks.fetched(signature, outputs)
        if len(self._calls) >= _MOST_CALLS:
            return session.call(name, signature.inputs, signature.outputs)
        return self._calls.setdefault(key, session.call(name, signature.inputs, fetched))

    def close(self) -> None:
        self._session = None


class _Call:
    """What is the same each time that a signature is run for certain outputs."""

    def __init__(
        self,
        signature: str,
        inputs: Mapping[str, TensorInfo],
        feeds: ctypes.Array[Output],
        outputs: Mapping[str, TensorInfo],
        fetches: ctypes.Array[Output],
    ) -> None:
        self.signature = signature
        self.inputs = {name: int(info.dtype) for name, info in inputs.items()}
        self.feeds = feeds
        self.outputs = [(name, int(info.dtype)) for name, info in outputs.items()]
        self.fetches = fetches
        self.fed = ctypes.c_void_p * len(inputs)
        self.fetched = ctypes.c_void_p * len(outputs)
        self.pace = Pace()
        # Runs it by one call from Python, where all is plain: else it is None, or what it returns.
        self.compiled: Any = None


class _Session:
    """TF_Session and its graph, freed with the last reference."""

    def __init__(self, library: Any, directory: Path, config: bytes) -> None:
        self._library = library
        self._tensors = Tensors(library)
        self._in_caller = library.NewBufferFromString(_IN_CALLER, len(_IN_CALLER))
        self._status = library.NewStatus()
        # To be used again: of as many runs as there ever were side by side.
        self._statuses: list[int] = []
        self._graph = library.NewGraph()
        self._session = None
        options = library.NewSessionOptions()
        try:
            library.SetConfig(options, config, len(config), self._status)
            tags = (ctypes.c_char_p * 1)(saved_model.SERVE_TAG.encode())
            self._session = library.LoadSessionFromSavedModel(
                options, None, os.fsencode(directory), tags, 1, self._graph, None, self._status
            )
        finally:
            library.DeleteSessionOptions(options)
        failed = failure(library, self._status)
        if failed:
            raise ModelError(f"{directory}: TensorFlow cannot load this model: {failed[0]}: {failed[1]}")

    def __del__(self) -> None:
        library = self._library
        if self._session is not None:
            library.CloseSession(self._session, self._status)
            library.DeleteSession(self._session, self._status)
        library.DeleteGraph(self._graph)
        library.DeleteBuffer(self._in_caller)
        for status in (self._status, *self._statuses):
            library.DeleteStatus(status)

    def places(self, tensors: Mapping[str, TensorInfo]) -> ctypes.Array[Output]:
        """Where tensors of a signature are in the graph; ModelRunError for one that no array can be."""
        places = []
        for name, info in tensors.items():
            operation, _, index = info.name.rpartition(":")
            found = self._library.GraphOperationByName(self._graph, operation.encode())
            if not found or not index.isdigit() or int(index) >= self._library.OperationNumOutputs(found):
                raise ModelRunError("INVALID_ARGUMENT", f"{name!r} of the signature names no tensor of the graph")
            place = Output(found, int(index))
            if info.dtype not in NUMPY_TYPES or self._library.OperationOutputType(place) != info.dtype:
                raise ModelRunError("UNIMPLEMENTED", f"{name!r} is of the type {info.dtype.name}, which no array has")
            places.append(place)
        return (Output * len(places))(*places)

    def call(self, signature: str, inputs: Mapping[str, TensorInfo], outputs: Mapping[str, TensorInfo]) -> _Call:
        """To be run as long as there is this session."""
        call = _Call(signature, inputs, self.places(inputs), outputs, self.places(outputs))
        fed = tuple((name, number, TYPES[number]) for name, number in call.inputs.items())
        fetched = tuple((name, number, TYPES[number]) for name, number in call.outputs)
        if CompiledCall and STRING not in {number for _, number, _ in fed + fetched}:
            addresses = self._library.path, self._session, self._in_caller
            feeds, fetches = bytes(call.feeds), bytes(call.fetches)
            made = CompiledCall(*addresses, np.ndarray, np.empty, fed, feeds, fetched, fetches)
            call.compiled = made.run
        return call

    def run(self, call: _Call, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What comes out, by the names of the call; by ctypes, for whatever the compiled call leaves to it."""
        started = perf_counter()
        library = self._library
        checks.all_inputs(call.signature, call.inputs, inputs)
        fetched = call.fetched()
        tensors: list[int] = []
        try:
            status = self._statuses.pop()
        except IndexError:
            status = library.NewStatus()
        try:
            for name, number in call.inputs.items():
                tensors.append(self._tensors.new(name, inputs[name], number))
            options = None if call.pace.seconds > _LONG else self._in_caller
            fed = call.fed(*tensors)
            library.SessionRun(
                self._session,
                options,
                call.feeds,
                fed,
                len(tensors),
                call.fetches,
                fetched,
                len(fetched),
                None,
                0,
                None,
                status,
            )
            failed = failure(library, status)
            if failed:
                raise ModelRunError(*failed)
            array = self._tensors.array
            found = {name: array(tensor, number) for (name, number), tensor in zip(call.outputs, fetched)}
            call.pace.add(perf_counter() - started)
            return found
        finally:
            for tensor in (*tensors, *fetched):
                if tensor is not None:
                    library.DeleteTensor(tensor)
            self._statuses.append(status)
