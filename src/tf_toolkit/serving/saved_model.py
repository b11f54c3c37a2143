"""What saved_model.pb says of a model, read without TensorFlow.

The messages: tensorflow/core/protobuf/saved_model.proto and meta_graph.proto; the numbers of their fields stand below.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path

from tf_toolkit.serving import wire
from tf_toolkit.serving.errors import ModelError
from tf_toolkit.serving.signature import DataType, Signature, TensorInfo

FILE_NAME = "saved_model.pb"
# Of the graph that is for serving, among those of one SavedModel.
SERVE_TAG = "serve"
# What TensorFlow 2 keeps among the signatures and nobody calls.
_INTERNAL_PREFIX = "__saved_model_"

_META_GRAPHS = 2
_META_INFO, _SIGNATURES = 1, 5
_TAGS = 4
_INPUTS, _OUTPUTS, _METHOD_NAME = 1, 2, 3
_NAME, _DTYPE, _SHAPE = 1, 2, 3
_DIM, _UNKNOWN_RANK = 2, 3
_SIZE = 1


def read(directory: Path) -> Mapping[str, Signature]:
    """The signatures of the graph for serving, by their names in order; ModelError where there is no such graph."""
    path = directory / FILE_NAME
    found = []
    try:
        for number, value in wire.fields(_contents(path)):
            if number == _META_GRAPHS:
                tags, signatures = _meta_graph(wire.data(value))
                # Of the tags all must be right: TensorFlow itself asks for no less.
                if tags == [SERVE_TAG]:
                    return signatures
                # A tag may be any text, and this stays one line.
                found.append(repr("+".join(tags))[1:-1] or "none")
    except wire.WireError as error:
        raise ModelError(f"{path}: this is no SavedModel, or one cut off: {error}") from None
    raise ModelError(
        f"{path}: it has no graph with the tag {SERVE_TAG!r} alone; tags found: {', '.join(found) or 'none'}"
    )


def _contents(path: Path) -> memoryview:
    """The file, of which only what is looked at comes into memory: a graph may have gigabytes of weights in it."""
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except ValueError:
        raise ModelError(f"{path}: the file is empty") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None


def _meta_graph(message: memoryview) -> tuple[list[str], Mapping[str, Signature]]:
    tags: list[str] = []
    signatures = {}
    for number, value in wire.fields(message):
        if number == _META_INFO:
            tags += [wire.text(part) for field, part in wire.fields(wire.data(value)) if field == _TAGS]
        elif number == _SIGNATURES:
            name, signature = wire.entry(value)
            if not name.startswith(_INTERNAL_PREFIX):
                signatures[name] = _signature(signature)
    return tags, dict(sorted(signatures.items()))


def _signature(message: memoryview) -> Signature:
    tensors: dict[int, dict[str, TensorInfo]] = {_INPUTS: {}, _OUTPUTS: {}}
    method_name = ""
    for number, value in wire.fields(message):
        if number in tensors:
            name, info = wire.entry(value)
            tensors[number][name] = _tensor_info(info)
        elif number == _METHOD_NAME:
            method_name = wire.text(value)
    inputs, outputs = (dict(sorted(tensors[number].items())) for number in (_INPUTS, _OUTPUTS))
    return Signature(inputs, outputs, method_name)


def _tensor_info(message: memoryview) -> TensorInfo:
    """One without a name is sparse or composite, which no request can give."""
    name, dtype = "", DataType.DT_INVALID
    shape: tuple[int, ...] | None = ()
    for number, value in wire.fields(message):
        if number == _NAME:
            name = wire.text(value)
        elif number == _DTYPE:
            dtype = data_type(wire.unsigned(value))
        elif number == _SHAPE:
            shape = tensor_shape(wire.data(value))
    return TensorInfo(name, dtype, shape)


def data_type(number: int) -> DataType:
    """TensorFlow's type of that number; DT_INVALID for those that came after this was written."""
    return DataType(number) if number in DataType.__members__.values() else DataType.DT_INVALID


def tensor_shape(message: memoryview) -> tuple[int, ...] | None:
    """A TensorShapeProto; None where not even the rank is known."""
    shape = []
    for number, value in wire.fields(message):
        if number == _UNKNOWN_RANK and wire.unsigned(value):
            return None
        if number == _DIM:
            sizes = [wire.signed(part) for field, part in wire.fields(wire.data(value)) if field == _SIZE]
            shape.append(sizes[-1] if sizes else 0)
    if any(size < -1 for size in shape):
        raise wire.WireError(f"a shape has a size of {min(shape)}")
    return tuple(shape)
