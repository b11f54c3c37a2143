"""Arrays into JSON text, as TensorFlow Serving writes it: every number reads back as the same one of its type, floats
always look like floats, and NaN, Infinity and -Infinity are bare words.

Strings of outputs whose names end with ``_bytes`` are ``{"b64": ...}``, others are text; and so is, rather than broken
JSON, a single one that is no UTF-8.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import orjson

from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import invalid
from tf_toolkit.serving.expectation import BYTES_SUFFIX
from tf_toolkit.serving.json_arrays import BASE64_KEY

_NULL = b"null"
# So many numbers are written in a tenth of a second.
_PIECE = 1_000_000


def array_text(name: str, array: Array) -> bytes:
    """The array of an output of this name."""
    if array.dtype.kind == "O":
        return orjson.dumps(_strings(name, array))
    text = _dumped(array, _numeric(name, array))
    # Among numbers, nothing else has this letter, and one is found faster than a word.
    if b"n" not in text:
        return text
    words = [b"NaN" if value != value else b"Infinity" if value > 0 else b"-Infinity" for value in _words(array)]
    pieces = text.split(_NULL)
    return pieces[0] + b"".join([word + piece for word, piece in zip(words, pieces[1:])])


def rows(name: str, array: Array) -> list[Any]:
    """What orjson writes as the array's rows, with OPT_SERIALIZE_NUMPY."""
    if array.dtype.kind == "O":
        return list(_strings(name, array))
    if not _has_words(array):
        _numeric(name, array)
        return list(np.ascontiguousarray(array))
    return [orjson.Fragment(array_text(name, np.asarray(row))) for row in array]


def text_or_base64(value: bytes) -> str | dict[str, str]:
    """A string of an output that is text."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _base64(value)


def _base64(value: bytes) -> dict[str, str]:
    return {BASE64_KEY: base64.b64encode(value).decode()}


def _strings(name: str, array: Array) -> Any:
    write = _base64 if name.endswith(BYTES_SUFFIX) else text_or_base64
    written = np.array([write(value) for value in array.ravel().tolist()], object)
    return written.reshape(array.shape).tolist()


def _dumped(array: Array, option: int) -> bytes:
    if array.size <= _PIECE:
        # Scalars are not arrays to orjson, and it takes no strides.
        return orjson.dumps(array[()] if array.ndim == 0 else np.ascontiguousarray(array), option=option)
    if len(array) == 1:
        return b"[%b]" % _dumped(array[0], option)
    # Between the pieces other threads have their turn.
    rows = max(1, _PIECE * len(array) // array.size)
    parts = [_dumped(array[start : start + rows], option)[1:-1] for start in range(0, len(array), rows)]
    return b"[%b]" % b",".join(parts)


def _numeric(name: str, array: Array) -> int:
    if array.dtype.kind not in "fiub":
        raise invalid(f"Failed to write JSON value for tensor type: {array.dtype} of output: {name}")
    return orjson.OPT_SERIALIZE_NUMPY


def _has_words(array: Array) -> bool:
    return array.dtype.kind == "f" and not bool(np.isfinite(array).all())


def _words(array: Array) -> Any:
    return array[~np.isfinite(array)].tolist()
