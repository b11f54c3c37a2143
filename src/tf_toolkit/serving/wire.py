"""Protobuf's wire format, read and written: enough for the few messages that serving meets, without that package.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Union

# A varint, or the bytes of all else.
Value = Union[int, memoryview]

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


class WireError(ValueError):
    """These bytes are no message."""


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of a message, in order: number and value."""
    at, end = 0, len(message)
    while at < end:
        tag, at = varint(message, at)
        number, kind = tag >> 3, tag & 7
        value: Value
        if kind == _VARINT:
            value, at = varint(message, at)
        else:
            if kind == _BYTES:
                size, at = varint(message, at)
            elif kind in (_FIXED_64, _FIXED_32):
                size = 8 if kind == _FIXED_64 else 4
            else:
                raise WireError(f"byte {at} begins a field of the unknown kind {kind}")
            if size > end - at:
                raise WireError(f"a field of {size} bytes begins {end - at} bytes before the end")
            value = message[at : at + size]
            at += size
        if number == 0:
            raise WireError("a field has the number 0")
        yield number, value


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that begins there, as an unsigned one, and where it ends."""
    value = 0
    for place, byte in enumerate(message[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value & (1 << 64) - 1, at + place + 1
    raise WireError("a number does not end")


def signed(value: Value) -> int:
    """The int64 that a varint stands for."""
    number = unsigned(value)
    return number - (1 << 64) if number >> 63 else number


def unsigned(value: Value) -> int:
    """The varint."""
    if not isinstance(value, int):
        raise WireError("there are bytes where a number belongs")
    return value


def data(value: Value) -> memoryview:
    """The bytes: a message, or part of an array."""
    if isinstance(value, int):
        raise WireError("there is a number where bytes belong")
    return value


def text(value: Value) -> str:
    """The string."""
    try:
        return str(data(value), "utf-8")
    except UnicodeDecodeError:
        raise WireError("a name is not UTF-8") from None


def entry(value: Value) -> tuple[str, memoryview]:
    """An entry of a map from strings to messages."""
    key, message = "", memoryview(b"")
    for number, part in fields(data(value)):
        if number == 1:
            key = text(part)
        elif number == 2:
            message = data(part)
    return key, message


def packed_varints(value: Value) -> list[int]:
    """What one occurrence of a repeated number holds: one, or all of them."""
    if isinstance(value, int):
        return [value]
    numbers = []
    at = 0
    while at < len(value):
        number, at = varint(value, at)
        numbers.append(number)
    return numbers


def tag(number: int, kind: int) -> bytes:
    """What begins a field."""
    return encoded(number << 3 | kind)


def encoded(value: int) -> bytes:
    """A varint; negative numbers as protobuf has them."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_field(number: int, value: int) -> bytes:
    """A field that is a number or a boolean."""
    return tag(number, _VARINT) + encoded(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """A field that is a string or a message."""
    return tag(number, _BYTES) + encoded(len(value)) + value


def float_field(number: int, value: float) -> bytes:
    """A field that is a float; what is too large for one is infinite."""
    return tag(number, _FIXED_32) + bytes(ctypes.c_float(value))
