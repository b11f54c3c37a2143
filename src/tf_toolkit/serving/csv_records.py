"""text/csv: a record a line, in both directions.

Read are RFC 4180's quotes with whatever they hold, ends of lines with and without CR, and a byte order mark; lines of
nothing but blanks are no records. There is no header row. What a field means is the model's to say: ``1`` is text for
an input of strings. What :func:`write` has written, :func:`read` reads as the same values.
"""

from __future__ import annotations

import csv
import re
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import orjson

from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import RequestError, invalid
from tf_toolkit.serving.signature import NUMPY_TYPES, DataType

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A body of nothing else is numbers, if it is anything.
_OF_NUMBERS = b"0123456789+-.eE, \t\r\n"
_BLANKS = " \t\r"
# So many fields become values at a time, for texts take ten times the memory.
_CHUNK = 4096
# Longer than any integer of 64 bits, with some zeros before it. int() takes a time that grows with the square.
_LONGEST_INTEGER = 100
_INFINITIES = frozenset((float("inf"), float("-inf")))
# What a reader would take for an end, for nothing, or for a mark.
_NEEDS_QUOTES = re.compile(rb'[",\r\n]|\A\s*\Z|\A\xef\xbb\xbf')


def read(body: bytes, dtype: DataType) -> Array:
    """The records as an array of two dimensions, records and columns, of the input's type. ``body`` is UTF-8.

    Raises RequestError, which names line and column.
    """
    body = body[len(_BYTE_ORDER_MARK) :] if body.startswith(_BYTE_ORDER_MARK) else body
    numpy_type = np.dtype(NUMPY_TYPES.get(dtype, "void"))
    if numpy_type.kind not in "fiubO":
        raise invalid(f"text/csv cannot hold values of type {dtype.name}")
    records = _numbers(body, numpy_type) if numpy_type.kind in "fiu" else None
    return _values(body, numpy_type) if records is None else records


def _numbers(body: bytes, numpy_type: np.dtype[Any]) -> Array | None:
    """The records at the speed of a JSON parser; None where they are not as simple as that, or wrong."""
    if body.translate(None, _OF_NUMBERS):
        return None
    lines = [line for line in body.split(b"\n") if line and not line.isspace()]
    if len({line.count(b",") for line in lines}) != 1:
        return None
    try:
        packed = _packed(orjson.loads(b"[%b]" % b",".join(lines)), numpy_type)
    except ValueError:
        return None
    return np.frombuffer(packed, numpy_type).reshape(len(lines), -1)


def _packed(values: Sequence[float], numpy_type: np.dtype[Any]) -> bytes:
    """The values as an array of the type has them; ValueError for one that does not fit.

    struct is several times faster than numpy, and in its standard sizes it lets no number become another or infinity.
    """
    code = {"l": "q", "L": "Q"}.get(numpy_type.char, numpy_type.char)
    try:
        return struct.pack(f"={len(values)}{code}", *values)
    except (OverflowError, struct.error):
        raise ValueError from None


def _values(body: bytes, numpy_type: np.dtype[Any]) -> Array:
    """The records, field by field."""
    parse = _parser(numpy_type)
    values: Any = [] if numpy_type.kind == "O" else bytearray()
    count = columns = 0
    for line, fields in _records(body):
        columns = columns or len(fields)
        if len(fields) != columns:
            raise invalid(f"text/csv: line {line} has {len(fields)} columns, but the first record has {columns}")
        try:
            for start in range(0, columns, _CHUNK):
                values += parse(fields[start : start + _CHUNK])
        except ValueError:
            raise _refusal(line, fields, parse, numpy_type) from None
        count += 1
    if not count:
        raise invalid("No values in 'instances' array: the body holds no record")
    if numpy_type.kind != "O":
        return np.frombuffer(values, numpy_type).reshape(count, columns)
    return np.array(values, object).reshape(count, columns)


def _records(body: bytes) -> Iterator[tuple[int, list[str]]]:
    """Each record's fields, with the number of the line that it starts on."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise invalid(f"text/csv: the byte at {error.start} is not UTF-8") from None
    lines = text.split("\n")
    if '"' not in text:
        for number, line in enumerate(lines, 1):
            if line.strip(_BLANKS):
                yield number, line.removesuffix("\r").split(",")
        return
    # The module's own limit of a field's length is for the whole process, and far below a body's.
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader((line + "\n" for line in lines), strict=True)
    start = 1
    try:
        for fields in reader:
            # An empty text in quotes is a record, and a line of blanks is none.
            if len(fields) > 1 or "".join(fields).strip(_BLANKS) or '"' in lines[reader.line_num - 1]:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise invalid(f"text/csv: the record at line {start} cannot be read: {error}") from None


def _parser(numpy_type: np.dtype[Any]) -> Callable[[list[str]], Any]:
    """From fields to a list of texts, or to the bytes of an array. What it returns raises ValueError."""
    if numpy_type.kind == "O":
        return lambda fields: [field.encode() for field in fields]
    if numpy_type.kind == "b":
        return lambda fields: bytes(map(_boolean, fields))
    return partial(_floats if numpy_type.kind == "f" else _integers, numpy_type)


def _floats(numpy_type: np.dtype[Any], fields: list[str]) -> bytes:
    _check_letters(fields)
    values = list(map(float, fields))
    if not _INFINITIES.isdisjoint(values):
        for field, value in zip(fields, values):
            # Of what is infinite, only the word is meant.
            if value in _INFINITIES and "n" not in field.lower():
                raise ValueError
    return _packed(values, numpy_type)


def _integers(numpy_type: np.dtype[Any], fields: list[str]) -> bytes:
    _check_letters(fields)
    if max(map(len, fields)) > _LONGEST_INTEGER:
        raise ValueError
    return _packed(list(map(int, fields)), numpy_type)


def _check_letters(fields: list[str]) -> None:
    """Python's numbers are also ``1_000`` and the digits of other scripts."""
    text = "".join(fields)
    if "_" in text or not text.isascii():
        raise ValueError


def _boolean(field: str) -> bool:
    word = field.strip().lower()
    if word not in ("true", "false"):
        raise ValueError
    return word == "true"


def _refusal(
    line: int, fields: list[str], parse: Callable[[list[str]], Any], numpy_type: np.dtype[Any]
) -> RequestError:
    """What is wrong with the first field that is."""
    for column, field in enumerate(fields, 1):
        try:
            parse([field])
        except ValueError:
            found = repr(field if len(field) <= 40 else f"{field[:40]}...") if field.strip() else "nothing"
            place = f"line {line}, column {column}"
            return invalid(f"text/csv: {place}: expected a value of type {numpy_type}, found {found}")
    raise AssertionError(f"no field of line {line} is wrong")


def write(outputs: Sequence[Array]) -> bytes:
    """A line for each record, the outputs side by side; each is of two dimensions, records and columns.

    Nothing follows the last line's text: the platform itself ends each answer of a batch with a new line.
    """
    return b"\n".join(b",".join(parts) for parts in zip(*map(_lines, outputs)))


def _lines(values: Array) -> list[bytes]:
    if not len(values):
        return []
    if values.dtype == object:
        return [b",".join(map(_quoted, row)) for row in values]
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return [",".join(row).encode() for row in values.astype(str).tolist()]
    return orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")


def _quoted(text: bytes) -> bytes:
    return b'"%b"' % text.replace(b'"', b'""') if _NEEDS_QUOTES.search(text) else text
