"""What is wrong with a JSON value that does not make an array, in TensorFlow Serving's words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.json_arrays import (
    FLOATS,
    INTEGERS,
    MOST_DIMENSIONS,
    Flat,
    convert,
    decoded,
    integer_range,
    is_base64,
)
from tf_toolkit.serving.json_text import shown
from tf_toolkit.serving.signature import NUMPY_TYPES, DataType, shape_text

# So many values at a time are looked through for the one that is wrong.
_CHUNK = 1000


class Fault(Exception):
    """A value that its type does not fit: ``code`` is TensorFlow's."""

    def __init__(self, message: str, code: str = "INVALID_ARGUMENT") -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def type_name(dtype: DataType) -> str:
    """As messages have it, such as ``float``."""
    return dtype.name[len("DT_") :].lower()


def to_array(value: Any, dtype: DataType, *, no_booleans: bool = False) -> Array:
    """As ``convert``. Raises Fault."""
    array = convert(value, dtype, no_booleans=no_booleans)
    if array is None:
        raise _fault_beside(value, dtype, None) or _unfit(value, dtype)
    return array


def first_fault(instances: Sequence[Any], dtype: DataType) -> tuple[int, Fault]:
    """Which of ``instances`` is the first that does not make an array with those before it, and why."""
    expected = _shape(instances[0])
    for start, chunk in _chunks(instances):
        if _fits(chunk, dtype, expected):
            continue
        for index, instance in enumerate(chunk, start):
            fault = _fault_beside(instance, dtype, expected)
            if fault is not None:
                return index, fault
    return 0, _unfit(instances[0], dtype)


def _chunks(values: Sequence[Any]) -> Iterator[tuple[int, Sequence[Any]]]:
    for start in range(0, len(values), _CHUNK):
        yield start, values[start : start + _CHUNK]


def _fits(values: Sequence[Any], dtype: DataType, shape: Sequence[int]) -> bool:
    """Whether all ``values`` are of this shape, and of the type."""
    flat = Flat(values)
    return flat.shape[1:] == list(shape) and flat.converted(dtype) is not None


def _shape(value: Any) -> list[int]:
    """What the first elements say of the shape."""
    shape = []
    while type(value) is list:
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _unfit(value: Any, dtype: DataType) -> Fault:
    """What is left: a list without values, of a type without arrays."""
    return Fault(f"JSON Value: {shown(value)} cannot be of type: {type_name(dtype)}", "UNIMPLEMENTED")


def _fault_beside(value: Any, dtype: DataType, expected: list[int] | None) -> Fault | None:
    """What is wrong with ``value``: in itself, or beside one of the ``expected`` shape."""
    shape = _shape(value)
    if len(shape) >= MOST_DIMENSIONS:
        return Fault(f"Encountered lists in lists {len(shape)} deep, {MOST_DIMENSIONS - 1} are the most")
    try:
        _walk(value, 0, dtype, shape)
    except Fault as fault:
        return fault
    if expected is None or shape == expected:
        return None
    if math.prod(shape) != math.prod(expected):
        return Fault(f"Expecting tensor size: {math.prod(expected)} but got: {math.prod(shape)}")
    return Fault(f"Expecting shape {shape_text(expected)} but got: {shape_text(shape)}")


def _walk(value: Any, level: int, dtype: DataType, shape: list[int]) -> None:
    """Raise the first fault, in the order of the text."""
    if type(value) is not list:
        if level != len(shape):
            raise Fault(
                f"JSON Value: {shown(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        _check(value, dtype)
        return
    if level >= len(shape):
        raise Fault(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise Fault(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for _, chunk in _chunks(value):
        if not _fits(chunk, dtype, shape[level + 1 :]):
            for item in chunk:
                _walk(item, level + 1, dtype, shape)


def _check(value: Any, dtype: DataType) -> None:
    """Raise the fault of a value that is no list."""
    name = type_name(dtype)
    if type(value) is dict:
        if dtype is DataType.DT_STRING:
            if not is_base64(value):
                raise Fault(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
            if decoded(value) is None:
                raise Fault("Unable to base64 decode")
            return
        raise _type_fault(value, name)
    if dtype not in NUMPY_TYPES or dtype in (DataType.DT_COMPLEX64, DataType.DT_COMPLEX128):
        raise Fault(f"Conversion of JSON Value: {shown(value)} to type: {name}", "UNIMPLEMENTED")
    if convert(value, dtype) is not None:
        return
    if dtype in FLOATS and type(value) in (int, float):
        raise Fault(f"Cannot convert JSON value: {shown(value)} to {name} without loss of precision.")
    fault = _type_fault(value, name)
    if dtype in INTEGERS and type(value) is int:
        smallest, largest = integer_range(dtype)
        raise Fault(f"{fault.message}, which goes from {smallest} to {largest}")
    raise fault


def _type_fault(value: Any, name: str) -> Fault:
    return Fault(f"JSON Value: {shown(value)} Type: {json_type(value)} is not of expected type: {name}")


def json_type(value: object) -> str:
    """The JSON type of a value, such as ``Number``."""
    if value is None or isinstance(value, bool):
        return "Null" if value is None else str(value)
    if isinstance(value, (int, float)):
        return "Number"
    if isinstance(value, str):
        return "String"
    return "Array" if isinstance(value, list) else "Object"
