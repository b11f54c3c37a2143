"""What a file comes apart into: records, and payloads of as many of them as a request may have.

Nothing is held but the payload that is being put together, as the bytes that it is: a file may be of any size, and a
payload a million short lines.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Callable, NamedTuple, NoReturn

from tf_toolkit.local.transform.options import LINE, MEGABYTE, NONE, RECORD_IO

# See pipe_mode/framing.py, which takes frames apart that come through a FIFO. Here they go on as they are, and it is
# whoever gets them that verifies checksums.
_TF_RECORD_HEADER = struct.Struct("<QI")
_CRC_BYTES = 4
_RECORD_IO_HEADER = struct.Struct("<II")
_RECORD_IO_MAGIC = 0xCED7230A
_LENGTH_BITS = 29
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)

# Whether it is one at all, which an empty line of CSV is not; and what is sent of it.
IsRecord = Callable[[bytes], bool]
Prepare = Callable[[bytes], bytes]


class Fault(Exception):
    """A file cannot be transformed; the message says where in it, and why."""


class Unprepared(Exception):
    """A record cannot be sent; the message says why."""


class Record(NamedTuple):
    # From 1: of the line, or of the record in a file of frames.
    number: int
    # As it stands in the file.
    data: bytes


class Payload(NamedTuple):
    """What one request is made of."""

    # All that it has of the file, as it stands there, and the number of what that begins with.
    data: bytes
    start: int
    # What is sent.
    body: bytes
    # Of the first and the last record, and of all.
    first: int
    last: int
    total: int


class _Payload:
    """One that is being put together."""

    def __init__(self) -> None:
        self._data = bytearray()
        # None as long as it is the same.
        self._body: bytearray | None = None
        self._start = self._first = self._last = 0
        self.total = 0

    def size_with(self, record: Record, sent: bytes | None) -> int:
        body = self._data if self._body is None else self._body
        return max(len(self._data) + len(record.data), len(body) + len(sent or b""))

    def add(self, record: Record, sent: bytes | None) -> None:
        """Between records also what is none and not sent, so that lines keep their numbers."""
        if sent is None and not self.total:
            return
        self._start = self._start or record.number
        if self._body is None and sent is not record.data:
            self._body = self._data[:]
        self._data += record.data
        if sent is not None:
            if self._body is not None:
                self._body += sent
            self._first = self._first or record.number
            self._last = record.number
            self.total += 1

    def whole(self) -> Payload:
        data = bytes(self._data)
        body = data if self._body is None else bytes(self._body)
        return Payload(data, self._start, body, self._first, self._last, self.total)


class Splitter:
    """Splits files of a type into records, and these into payloads."""

    def __init__(self, split_type: str, single_record: bool, limit: int, is_record: IsRecord, prepare: Prepare) -> None:
        """A payload has ``limit`` bytes at most."""
        self._type = split_type
        self._single = single_record or split_type == NONE
        self._limit = limit
        self._is_record = is_record
        self._prepare = prepare

    def payloads(self, stream: io.BufferedIOBase) -> Iterator[Payload]:
        """The payloads of a file. Raises Fault where it cannot go on, and OSError."""
        payload = _Payload()
        for record in self._records(stream, 1):
            sent = self.sent(record) if self._is_record(record.data) else None
            if payload.total and (self._single or payload.size_with(record, sent) > self._limit):
                yield payload.whole()
                payload = _Payload()
            payload.add(record, sent)
        if payload.total:
            yield payload.whole()

    def records(self, payload: Payload) -> Iterator[Record]:
        """The records of a payload."""
        found = self._records(io.BytesIO(payload.data), payload.start)
        return (record for record in found if self._is_record(record.data))

    def sent(self, record: Record) -> bytes:
        """What is sent of a record. Raises Fault."""
        try:
            sent = self._bounded(self._prepare(record.data))
        except Unprepared as error:
            raise Fault(f"{self.place(record.number, record.number)}{error}") from error
        return self._bare(sent) if self._single else sent

    def place(self, first: int, last: int) -> str:
        """How messages name records; the whole file has no place."""
        if self._type == NONE:
            return ""
        what = "line" if self._type == LINE else "record"
        return f"{what} {first}: " if first == last else f"{what}s {first} to {last}: "

    def _bare(self, record: bytes) -> bytes:
        """A record without its frame, which is there to keep it from the next."""
        if self._type in (NONE, LINE):
            return record
        if self._type == RECORD_IO:
            return _record_io_content(record)
        return record[_TF_RECORD_HEADER.size : -_CRC_BYTES]

    def _records(self, stream: io.BufferedIOBase, number: int) -> Iterator[Record]:
        while True:
            try:
                record = self._next(stream)
            except Unprepared as error:
                raise Fault(f"{self.place(number, number)}{error}") from error
            if not record:
                return
            yield Record(number, record)
            number += 1

    def _next(self, stream: io.BufferedIOBase) -> bytes:
        if self._type == NONE:
            return self._bounded(stream.read(self._limit + 1))
        if self._type == LINE:
            return self._bounded(stream.readline(self._limit + 1))
        if self._type == RECORD_IO:
            return self._record_io(stream)
        return self._tf_record(stream)

    def _bounded(self, record: bytes) -> bytes:
        if len(record) > self._limit:
            self._refuse()
        return record

    def _refuse(self) -> NoReturn:
        remedy = "give a larger one" + (", or a --split-type" if self._type == NONE else "")
        raise Unprepared(f"larger than --max-payload, which is {self._limit / MEGABYTE:g} MB; {remedy}")

    def _tf_record(self, stream: io.BufferedIOBase) -> bytes:
        header = self._read(stream, _TF_RECORD_HEADER.size)
        if not header:
            return b""
        length, _ = _TF_RECORD_HEADER.unpack(header)
        return header + self._rest(stream, len(header), length + _CRC_BYTES)

    def _record_io(self, stream: io.BufferedIOBase) -> bytes:
        record = bytearray()
        while True:
            header = self._read(stream, _RECORD_IO_HEADER.size)
            if not header and not record:
                return b""
            if not header:
                raise Unprepared("the file ends between its parts")
            magic, word = _RECORD_IO_HEADER.unpack(header)
            flag, length = word >> _LENGTH_BITS, word & (1 << _LENGTH_BITS) - 1
            if magic != _RECORD_IO_MAGIC or (flag in (_WHOLE, _FIRST)) is bool(record) or flag > _LAST:
                raise Unprepared("there is no header of RecordIO")
            record += header
            record += self._rest(stream, len(record), length + (-length & 3))
            if flag in (_WHOLE, _LAST):
                return bytes(record)

    def _rest(self, stream: io.BufferedIOBase, have: int, size: int) -> bytes:
        """So much more of a record. Of one that is too large nothing is read."""
        if have + size > self._limit:
            self._refuse()
        rest = self._read(stream, size) if size else b""
        if len(rest) < size:
            raise Unprepared("the file ends inside it")
        return rest

    def _read(self, stream: io.BufferedIOBase, size: int) -> bytes:
        """So many bytes, or none at the end of the file."""
        data = stream.read(size)
        if data and len(data) < size:
            raise Unprepared("the file ends inside it")
        return data


def _record_io_content(record: bytes) -> bytes:
    """Of one that may be in several parts."""
    at, parts = 0, []
    while at < len(record):
        _, word = _RECORD_IO_HEADER.unpack_from(record, at)
        at += _RECORD_IO_HEADER.size
        length = word & (1 << _LENGTH_BITS) - 1
        parts.append(record[at : at + length])
        at += length + (-length & 3)
    return b"".join(parts)
