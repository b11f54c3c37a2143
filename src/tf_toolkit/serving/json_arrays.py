"""JSON values into arrays, by TensorFlow Serving's rules.

The first element of every list says what the others look like. Whole numbers will do for floats, but not the other way
round; booleans are no numbers. A number that the type cannot hold is refused, those of the small integer types
included. Beyond TensorFlow Serving's types there are ``uint16`` and ``half``.
"""

from __future__ import annotations

import base64
import struct
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.signature import NUMPY_TYPES, DataType

BASE64_KEY = "b64"
# What numpy 1 has; 2 has 64.
MOST_DIMENSIONS = 32
# The largest whole number up to which a type has all of them: beyond it they are refused, not rounded.
_LARGEST_WHOLE = {DataType.DT_HALF: 2**11 - 1, DataType.DT_FLOAT: 2**24 - 1, DataType.DT_DOUBLE: 2**53 - 1}
FLOATS = frozenset(_LARGEST_WHOLE)
INTEGERS = frozenset(dtype for dtype, name in NUMPY_TYPES.items() if name.startswith(("int", "uint")))
_FEW = 64


class _Plain(NamedTuple):
    """How numbers of a type are packed."""

    dtype: np.dtype[Any]
    # struct's and numpy's letters for types are not all the same: int64 is "l" to numpy.
    code: str
    largest_whole: int | None


_CODES = {"int64": "q", "uint64": "Q"}
# By the types' numbers, for hashing a member of an Enum takes longer than all the rest of a small request.
_PLAIN: list[_Plain | None] = [None] * (max(DataType) + 1)
for _dtype in FLOATS | INTEGERS:
    _name = NUMPY_TYPES[_dtype]
    _PLAIN[_dtype] = _Plain(np.dtype(_name), _CODES.get(_name, np.dtype(_name).char), _LARGEST_WHOLE.get(_dtype))


def convert(value: Any, dtype: DataType, *, no_booleans: bool = False) -> Array | None:
    """``value`` as an array of the type; None where it is no such array.

    ``no_booleans`` promises that there are none in it, which makes numbers several times faster: Python's booleans are
    numbers too, and only a look at each value tells.
    """
    if no_booleans:
        array = _numbers(value, dtype)
        if array is not None:
            return array
    return Flat(value).converted(dtype)


def is_base64(value: object) -> bool:
    """Whether this object stands for a string of bytes."""
    return type(value) is dict and len(value) == 1 and type(value.get(BASE64_KEY)) is str


def _numbers(value: Any, dtype: DataType) -> Array | None:
    """``value`` where it is plainly an array of numbers of the type, with no look at single values in Python.

    struct refuses what is no number, fractions for whole numbers, and what is out of range. Whatever is not plain is
    left to the exact way.
    """
    plain = _PLAIN[dtype]
    if plain is None or type(value) is not list:
        return None
    level = value
    shape = [len(value)]
    try:
        while level and type(level[0]) is list:
            (size,) = set(map(len, level))
            shape.append(size)
            level = list(chain.from_iterable(level))
        # Of lists without elements nothing has been looked at.
        if not level or len(shape) > MOST_DIMENSIONS:
            return None
        packed = bytearray(len(level) * plain.dtype.itemsize)
        struct.pack_into(f"{len(level)}{plain.code}", packed, 0, *level)
    except (TypeError, ValueError, OverflowError, struct.error):
        return None
    array = np.frombuffer(packed, plain.dtype)
    if plain.largest_whole is not None:
        # Of few values, Python is faster to find the extremes.
        low, high = (min(level), max(level)) if len(level) < _FEW else (array.min(), array.max())
        if not -plain.largest_whole <= low <= high <= plain.largest_whole:
            return None
    return array if len(shape) == 1 else array.reshape(shape)


def integer_range(dtype: DataType) -> tuple[int, int]:
    """The smallest and the largest of an integer type."""
    limits = np.iinfo(NUMPY_TYPES[dtype])
    return int(limits.min), int(limits.max)


class Flat:
    """The values of nested lists of one shape, without the lists; ``values`` is None where the lists have no shape."""

    def __init__(self, value: Any) -> None:
        self.shape = [len(value)] if type(value) is list else []
        self.values: list[Any] | None = value if type(value) is list else [value]
        self.kinds: set[type] = set(map(type, self.values))
        while self.values is not None and list in self.kinds:
            sizes = set(map(len, self.values)) if len(self.kinds) == 1 else set()
            if len(sizes) != 1 or len(self.shape) == MOST_DIMENSIONS:
                self.values = None
                break
            self.shape.append(sizes.pop())
            self.values = list(chain.from_iterable(self.values))
            self.kinds = set(map(type, self.values))

    def converted(self, dtype: DataType) -> Array | None:
        """The array, if all values fit the type."""
        if self.values is None:
            return None
        array = _converted(self.values, self.kinds, dtype)
        return None if array is None else array.reshape(self.shape)


def _converted(values: list[Any], kinds: set[type], dtype: DataType) -> Array | None:
    if dtype in FLOATS:
        return _floats(values, kinds, dtype) if kinds <= {int, float} else None
    if dtype in INTEGERS:
        if not kinds <= {int}:
            return None
        smallest, largest = integer_range(dtype)
        fits = not values or (min(values) >= smallest and max(values) <= largest)
        return np.array(values, NUMPY_TYPES[dtype]) if fits else None
    if dtype is DataType.DT_BOOL:
        return np.array(values, bool) if kinds <= {bool} else None
    if dtype is DataType.DT_STRING and kinds <= {str, dict}:
        return _strings(values, kinds)
    return None


def _floats(values: list[Any], kinds: set[type], dtype: DataType) -> Array | None:
    largest = _LARGEST_WHOLE[dtype]
    if int in kinds and any(type(value) is int and abs(value) > largest for value in values):
        return None
    array = np.array(values, "float64")
    # The shortest text of the largest float is a little larger than it.
    with np.errstate(over="ignore"):
        rounded = array.astype(NUMPY_TYPES[dtype])
    return None if (np.isinf(rounded) & np.isfinite(array)).any() else rounded


def _strings(values: list[Any], kinds: set[type]) -> Array | None:
    if dict not in kinds:
        found: list[bytes | None] = list(map(str.encode, values))
    else:
        found = [value.encode() if type(value) is str else decoded(value) for value in values]
        if None in found:
            return None
    return np.array(found, object)


def decoded(value: dict[str, Any]) -> bytes | None:
    """The bytes of ``{"b64": ...}``; None where it is none, or no base64."""
    if not is_base64(value):
        return None
    # As the incumbent: white space and missing padding are all right.
    text = "".join(value[BASE64_KEY].split()).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None
