"""TensorProto to arrays: tensorflow/core/framework/tensor.proto."""

from __future__ import annotations

import math

import numpy as np

from tf_toolkit.serving import wire
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.saved_model import data_type, tensor_shape
from tf_toolkit.serving.signature import NUMPY_TYPES, DataType

_DTYPE, _SHAPE, _CONTENT = 1, 2, 4
_STRINGS = 8
# Each has the values of some types: as bytes of that type,
_PLAIN = {5: "<f4", 6: "<f8", 9: "<c8", 12: "<c16"}
# or as varints, which of an array of halves are their bits.
_VARINTS = {7: "int64", 10: "int64", 11: "bool", 13: "uint16", 16: "uint32", 17: "uint64"}
# A shape costs nothing to write down, and gigabytes to fill.
_MOST_ELEMENTS = 1 << 28


def array(message: memoryview) -> Array:
    """The array; WireError where the message is none, or of a type that no array has."""
    dtype = DataType.DT_FLOAT
    shape: tuple[int, ...] | None = ()
    content: list[memoryview] = []
    strings: list[bytes] = []
    numbers: list[Array] = []
    for field, value in wire.fields(message):
        if field == _DTYPE:
            dtype = data_type(wire.unsigned(value))
        elif field == _SHAPE:
            shape = tensor_shape(wire.data(value))
        elif field == _CONTENT:
            content = [wire.data(value)]
        elif field == _STRINGS:
            strings.append(bytes(wire.data(value)))
        elif field in _PLAIN:
            numbers.append(_from_bytes(wire.data(value), _PLAIN[field]))
        elif field in _VARINTS:
            numbers.append(np.array([wire.signed(one) for one in wire.packed_varints(value)]).astype(_VARINTS[field]))
    if dtype not in NUMPY_TYPES:
        raise wire.WireError(f"a tensor is of the type {dtype.name}, which no array has")
    if shape is None or min(shape, default=0) < 0 or math.prod(shape) > _MOST_ELEMENTS:
        raise wire.WireError(f"a tensor has the shape {shape}")
    if dtype == DataType.DT_STRING:
        return _filled(np.array(strings, object), shape, b"")
    if content:
        return _filled(_from_bytes(content[0], NUMPY_TYPES[dtype]), shape, 0)
    values = np.concatenate(numbers) if numbers else np.zeros(0)
    values = values.view(np.float16) if dtype == DataType.DT_HALF and numbers else values.astype(NUMPY_TYPES[dtype])
    return _filled(values, shape, 0)


def _from_bytes(value: memoryview, dtype: str) -> Array:
    if len(value) % np.dtype(dtype).itemsize:
        raise wire.WireError(f"a tensor of {dtype} has {len(value)} bytes")
    return np.frombuffer(value, dtype)


def _filled(values: Array, shape: tuple[int, ...], empty: object) -> Array:
    """Where there are fewer values than elements, the last stands for all that follow."""
    size = math.prod(shape)
    if len(values) > size:
        raise wire.WireError(f"a tensor of {size} elements has {len(values)} values")
    array = np.full(size, values[-1] if len(values) else empty, values.dtype)
    array[: len(values)] = values
    return array.reshape(shape)
