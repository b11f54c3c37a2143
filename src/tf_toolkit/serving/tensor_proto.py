"""TensorProto to arrays, and back: tensorflow/core/framework/tensor.proto."""

from __future__ import annotations

import math

import numpy as np

from tf_toolkit.serving import wire
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.saved_model import data_type, tensor_shape
from tf_toolkit.serving.signature import NUMPY_TYPES, DataType

_DTYPE, _SHAPE, _CONTENT = 1, 2, 4
_STRINGS, _INTEGERS = 8, 7
# TensorShapeProto.
_DIM, _UNKNOWN_RANK = 2, 3
_SIZE = 1
# Each has the values of some types: as bytes of that type,
_PLAIN = {5: "<f4", 6: "<f8", 9: "<c8", 12: "<c16"}
# or as varints, which of an array of halves are their bits.
_VARINTS = {7: "int64", 10: "int64", 11: "bool", 13: "uint16", 16: "uint32", 17: "uint64"}
# Which has those of a type; integers of all others are together in one.
_FIELDS = {
    DataType.DT_FLOAT: 5,
    DataType.DT_DOUBLE: 6,
    DataType.DT_COMPLEX64: 9,
    DataType.DT_INT64: 10,
    DataType.DT_BOOL: 11,
    DataType.DT_COMPLEX128: 12,
    DataType.DT_HALF: 13,
    DataType.DT_UINT32: 16,
    DataType.DT_UINT64: 17,
}
_NUMBERS = {name: dtype for dtype, name in NUMPY_TYPES.items()}
# A shape costs nothing to write down, and gigabytes to fill.
_MOST_ELEMENTS = 1 << 28
# Elements that are made varints at once, each of which takes nearly 200 bytes meanwhile.
_FEW = 100_000


def array(message: memoryview) -> Array:
    """The array; WireError where the message is none, or of a type that no array has."""
    dtype = DataType.DT_FLOAT
    shape: tuple[int, ...] | None = ()
    content: list[memoryview] = []
    strings: list[bytes] = []
    numbers: dict[int, list[Array]] = {}
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
            numbers.setdefault(field, []).append(_from_bytes(wire.data(value), _PLAIN[field]))
        elif field in _VARINTS:
            integers = np.array([wire.signed(one) for one in wire.packed_varints(value)], np.int64)
            numbers.setdefault(field, []).append(integers.astype(_VARINTS[field]))
    if dtype not in NUMPY_TYPES:
        raise wire.WireError(f"a tensor is of the type {dtype.name}, which no array has")
    if shape is None or min(shape, default=0) < 0 or math.prod(shape) > _MOST_ELEMENTS:
        raise wire.WireError(f"a tensor has the shape {shape}")
    if dtype == DataType.DT_STRING:
        return _filled(np.array(strings, object), shape, b"")
    if content:
        return _filled(_from_bytes(content[0], NUMPY_TYPES[dtype]), shape, 0)
    found = numbers.get(_FIELDS.get(dtype, _INTEGERS)) or [np.zeros(0, NUMPY_TYPES[dtype])]
    values = np.concatenate(found)
    values = values.view(np.float16) if dtype == DataType.DT_HALF else values.astype(NUMPY_TYPES[dtype])
    return _filled(values, shape, 0)


def encoded(array: Array) -> bytes:
    """The message. Values are in the field of their type, where those who ask TensorFlow Serving look for them."""
    dtype = _NUMBERS[array.dtype.name]
    head = wire.varint_field(_DTYPE, dtype) + wire.bytes_field(_SHAPE, encoded_shape(array.shape))
    if dtype == DataType.DT_STRING:
        return head + b"".join([wire.bytes_field(_STRINGS, item) for item in array.ravel().tolist()])
    field = _FIELDS.get(dtype, _INTEGERS)
    if field in _PLAIN:
        values = array.tobytes()
    else:
        values = _varints(array.view(np.uint16) if dtype == DataType.DT_HALF else array)
    return head + wire.bytes_field(field, values)


def encoded_shape(shape: tuple[int, ...] | None) -> bytes:
    """A TensorShapeProto."""
    if shape is None:
        return wire.varint_field(_UNKNOWN_RANK, 1)
    return b"".join([wire.bytes_field(_DIM, wire.varint_field(_SIZE, size)) for size in shape])


def _varints(array: Array) -> bytes:
    """One for each element."""
    elements = array.ravel()
    return b"".join([_varints_of_few(elements[at : at + _FEW]) for at in range(0, len(elements), _FEW)])


def _varints_of_few(elements: Array) -> bytes:
    """Groups of seven bits, the lowest first, of which all but the last have an eighth."""
    # Negative numbers are written as those of 64 bits.
    numbers = elements.astype(np.int64 if elements.dtype.kind == "i" else np.uint64).view(np.uint64)
    rest = numbers[:, None] >> np.arange(0, 64, 7, dtype=np.uint64)
    bits = (rest & np.uint64(0x7F)).astype(np.uint8)
    # The first is there whatever it is.
    needed = np.concatenate([np.ones((len(rest), 1), bool), rest[:, 1:] > 0], 1)
    bits[:, :-1] |= np.where(needed[:, 1:], np.uint8(0x80), np.uint8(0))
    return bytes(bits[needed])


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
    try:
        return array.reshape(shape)
    except ValueError as error:
        # numpy's arrays have fewer dimensions.
        raise wire.WireError(f"a tensor has {len(shape)} dimensions: {error}") from None
