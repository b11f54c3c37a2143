"""Messages between launchers, and between a launcher and what Open MPI starts for it: JSON objects, bounded in size."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any, NamedTuple

LONGEST = 1 << 20
_LENGTH = struct.Struct(">I")

Message = dict[str, Any]


def encode(content: bytes) -> bytes:
    """One frame: the content's length as four bytes, and the content."""
    return _LENGTH.pack(len(content)) + content


def dump(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode("ascii")


def load(content: bytes) -> Message:
    """Raises ValueError for what is no JSON object."""
    try:
        message = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    return message


class Cut(NamedTuple):
    """What a stream of bytes came apart into: whole frames' contents, and what is left of the last."""

    contents: list[bytes]
    rest: bytes


def cut(stream: bytes, longest: int = LONGEST) -> Cut:
    """Raises ValueError for a frame that is longer than ``longest``."""
    contents = []
    start = 0
    while len(stream) - start >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(stream, start)
        if length > longest:
            raise ValueError(f"a frame of {length} bytes")
        end = start + _LENGTH.size + length
        if end > len(stream):
            break
        contents.append(stream[start + _LENGTH.size : end])
        start = end
    return Cut(contents, stream[start:])


def send(connection: socket.socket, message: Message) -> None:
    """Blocks until all is sent. Raises OSError."""
    connection.sendall(encode(dump(message)))


def receive(connection: socket.socket) -> Message | None:
    """Blocks until the next message; None at the end of the stream. Raises OSError, and ValueError for no message."""
    (length,) = _LENGTH.unpack(head) if (head := _exactly(connection, _LENGTH.size)) else (None,)
    if length is None:
        return None
    if length > LONGEST:
        raise ValueError(f"a frame of {length} bytes")
    content = _exactly(connection, length)
    return load(content) if content else None


def _exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or none when the stream ends before."""
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            return b""
        received += piece
    return received
