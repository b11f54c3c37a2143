"""application/x-npy: one array, in both directions, with no pickles and no size that is only claimed.

The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. The header is read here, for numpy's
own readers make room for as many values as it claims before they look for them.
"""

from __future__ import annotations

import ast
import io
import math
import re
from typing import Any

import numpy as np

from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import RequestError, invalid
from tf_toolkit.serving.json_arrays import MOST_DIMENSIONS
from tf_toolkit.serving.signature import NUMPY_TYPES, DataType

_MAGIC = b"\x93NUMPY"
# By the major version: how many bytes say how long the header is. Version 3 is for names of fields.
_LENGTH_BYTES = {1: 2, 2: 4}
# As numpy's own limit: Python's parser should see no more of what a stranger has written.
_LONGEST_HEADER = 10_000
_LAST_POINT = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)
_PLAIN_TYPE = re.compile("[<>|=]?[biufcSU][0-9]{1,9}")


def read(body: bytes, dtype: DataType) -> Array:
    """The array, in the input's type: a float in fewer bits, or an integer that fits. Raises RequestError."""
    array = _array(body)
    wanted = np.dtype(NUMPY_TYPES.get(dtype, "void"))
    if wanted.kind == "O" and array.dtype.kind in "SU":
        return _strings(array)
    if wanted.kind not in "biufc" or not np.can_cast(array.dtype, wanted, "same_kind"):
        expected = "text, of type S or U" if wanted.kind == "O" else NUMPY_TYPES.get(dtype, dtype.name)
        raise invalid(f"application/x-npy: the array is of type {array.dtype.name}, but the model takes {expected}")
    if array.dtype == wanted:
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(wanted)
    if not _holds(cast, array):
        raise invalid(f"application/x-npy: a value of the {array.dtype.name} array is too large for {wanted.name}")
    return cast


def _array(body: bytes) -> Array:
    """The array as it stands in the body, not copied."""
    header, start = _header(body)
    descr, shape, fortran = header.get("descr"), header.get("shape"), header.get("fortran_order", False)
    if not isinstance(descr, str) or not _PLAIN_TYPE.fullmatch(descr):
        found = repr(str(descr)[:40])
        raise invalid(f"application/x-npy: arrays of numbers, booleans or text are read, not of type {found}")
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise invalid("application/x-npy: the header has no shape")
    if not isinstance(fortran, bool):
        raise invalid("application/x-npy: fortran_order in the header is neither True nor False")
    if len(shape) > MOST_DIMENSIONS:
        raise invalid(f"application/x-npy: the array has {len(shape)} dimensions, {MOST_DIMENSIONS} are the most")
    try:
        numpy_type = np.dtype(descr)
        claimed = math.prod(shape) * numpy_type.itemsize
        if claimed != len(body) - start or not numpy_type.itemsize:
            raise invalid(f"application/x-npy: {len(body) - start} bytes follow the header, which claims {claimed}")
        # numpy takes any byte for a bool; TensorFlow only 0 and 1.
        values = np.frombuffer(body, "u1" if numpy_type.kind == "b" else numpy_type, math.prod(shape), start)
        values = values != 0 if numpy_type.kind == "b" else values
        return values.reshape(shape, order="F" if fortran else "C")
    except (TypeError, ValueError, OverflowError) as error:
        raise invalid(f"application/x-npy: {error}") from None


def _header(body: bytes) -> tuple[dict[Any, Any], int]:
    """The header, and where the values start."""
    length_bytes = _LENGTH_BYTES.get(body[len(_MAGIC)] if len(body) > len(_MAGIC) else 0)
    if not body.startswith(_MAGIC) or length_bytes is None:
        raise invalid("application/x-npy: the body is no array as numpy.save writes it")
    start = len(_MAGIC) + 2 + length_bytes
    length = int.from_bytes(body[start - length_bytes : start], "little")
    if length > _LONGEST_HEADER or start + length > len(body):
        raise invalid("application/x-npy: the header is longer than the body, or than any that numpy writes")
    try:
        header = ast.literal_eval(body[start : start + length].decode("latin-1").strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise invalid("application/x-npy: the header cannot be read")
    return header, start + length


def _strings(array: Array) -> Array:
    """Objects of bytes; what was text is UTF-8 now."""
    if array.dtype.kind == "S":
        return array.astype(object)
    # numpy itself looks at none of them.
    points = np.ascontiguousarray(array).view(f"{array.dtype.byteorder}u4")
    if ((points > _LAST_POINT) | ((points >= _SURROGATES.start) & (points < _SURROGATES.stop))).any():
        raise invalid("application/x-npy: the text is not Unicode")
    return np.char.encode(array, "utf-8").astype(object)


def _holds(cast: Array, array: Array) -> bool:
    """Whether the values are the same, but for the last digits of floats."""
    if array.dtype.kind in "fc" or cast.dtype.kind in "fc":
        return bool(np.array_equal(np.isfinite(cast), np.isfinite(array)))
    return bool(np.array_equal(cast, array))


def write(name: str, array: Array) -> bytes:
    """The output called ``name``."""
    if array.dtype == object:
        raise RequestError(406, f"application/x-npy cannot hold text: accept another type for the output {name!r}")
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
