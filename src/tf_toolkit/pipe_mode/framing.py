"""Records out of a stream of bytes, in Python alone: what is used where the compiled reader is not installed.

A parser is fed with the stream's pieces, of any size, and gives the records that are whole by then. Once ``error`` is
set the records given before are good, and nothing more comes.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable

# "Data loading", https://mxnet.apache.org/versions/1.9.1/api/architecture/note_data_loading: magic, then a flag of
# 3 bits and the length; the payload, padded to a multiple of 4.
_RECORD_IO_MAGIC = 0xCED7230A
_RECORD_IO_HEADER = struct.Struct("<II")
_LENGTH_BITS = 29
_LENGTHS = (1 << _LENGTH_BITS) - 1
_WHOLE, _FIRST, _MIDDLE = 0, 1, 2
# https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
_TF_RECORD_HEADER = struct.Struct("<QI")
_LENGTH_BYTES = 8
_CRC = struct.Struct("<I")
_CRC_MASK_DELTA = 0xA282EAD8
# https://www.rfc-editor.org/rfc/rfc3720#appendix-B.4, bits reversed.
_CRC_POLYNOMIAL = 0x82F63B78
# Longer than any stream.
_LONGEST_RECORD = 1 << 40
_GZIP_MAGIC = b"\x1f\x8b"
_CUT_IN_HEADER = "the stream ends inside the record's header"
_CUT_IN_RECORD = "the stream ends inside the record"


class Parser(ABC):
    """The records of one stream."""

    def __init__(self) -> None:
        self.error: str | None = None
        # How many records came before the one that is being read.
        self.number = 0
        # Bytes that something was made of.
        self._used = 0
        self._pieces: list[bytes] = []
        self._have = 0
        # With fewer bytes than these nothing can be made of them.
        self._need = 1

    @property
    def offset(self) -> int:
        """Where in the stream the record begins that is being read."""
        return self._used

    def feed(self, piece: bytes) -> list[bytes]:
        """The records that are whole with this piece of the stream."""
        self._pieces.append(piece)
        self._have += len(piece)
        if self._have < self._need or self.error is not None:
            return []
        data = b"".join(self._pieces)
        records, used = self._parse(data)
        self._pieces = [data[used:]]
        self._have -= used
        self._used += used
        self.number += len(records)
        return records

    def finish(self) -> list[bytes]:
        """The stream's end: a last record, where it has no end of its own."""
        records = [] if self.error is not None else self._end(b"".join(self._pieces))
        self.number += len(records)
        return records

    @abstractmethod
    def _parse(self, data: bytes) -> tuple[list[bytes], int]:
        """The whole records at the beginning of the data, and how many bytes they took; sets what is needed next."""

    @abstractmethod
    def _end(self, rest: bytes) -> list[bytes]:
        """A last record, or an error: the stream ends with these bytes, of which nothing was made."""

    def _fail(self, what: str, data: bytes = b"") -> None:
        """``data`` is the stream's beginning, if that is what is wrong."""
        gzip = self._used == 0 and data.startswith(_GZIP_MAGIC)
        self.error = what + (
            "; this is a gzip stream: say compression='Gzip' of the channel, and it comes unzipped" if gzip else ""
        )


class RecordIO(Parser):
    """Frames of RecordIO; a record may be in several."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        # Of the stream, that these parts took.
        self._part_bytes = 0
        self._need = _RECORD_IO_HEADER.size

    @property
    def offset(self) -> int:
        """Where in the stream the record begins that is being read, with the first of its parts."""
        return self._used - self._part_bytes

    def _parse(self, data: bytes) -> tuple[list[bytes], int]:
        records: list[bytes] = []
        parts = self._parts
        at, end = 0, len(data)
        size, unpack = _RECORD_IO_HEADER.size, _RECORD_IO_HEADER.unpack_from
        while end - at >= size:
            magic, word = unpack(data, at)
            flag, length = word >> _LENGTH_BITS, word & _LENGTHS
            if magic != _RECORD_IO_MAGIC:
                self._fail("there is no RecordIO header", b"" if at else data)
                break
            if not parts and flag > _FIRST:
                self._fail("this is a later part of a record that has no first one")
                break
            start = at + size
            after = start + length + (-length & 3)
            if after > end:
                self._need = after - at
                return records, at
            payload = data[start : start + length]
            if flag == _WHOLE and not parts:
                records.append(payload)
            else:
                found = self._add_part(flag, payload)
                self._part_bytes = 0 if found else self._part_bytes + after - at
                records += found
            at = after
        self._need = size
        return records, at

    def _add_part(self, flag: int, payload: bytes) -> list[bytes]:
        more = flag == (_MIDDLE if self._parts else _FIRST)
        self._parts.append(payload)
        if more:
            return []
        whole = b"".join(self._parts)
        self._parts.clear()
        return [whole]

    def _end(self, rest: bytes) -> list[bytes]:
        if len(rest) < _RECORD_IO_HEADER.size:
            if rest:
                self._fail(_CUT_IN_HEADER)
            elif self._parts:
                self._fail("the stream ends between the parts of the record")
            return []
        _, word = _RECORD_IO_HEADER.unpack_from(rest)
        flag, length = word >> _LENGTH_BITS, word & _LENGTHS
        payload = rest[_RECORD_IO_HEADER.size : _RECORD_IO_HEADER.size + length]
        if len(payload) < length:
            self._fail(_CUT_IN_RECORD)
            return []
        records = self._add_part(flag, payload)
        self._fail("the stream ends inside the padding before it")
        return records


class TFRecord(Parser):
    """Frames of TFRecord. Up to ``may_skip`` records in a row whose own checksum is wrong are left out."""

    def __init__(self, verify: bool, may_skip: int) -> None:
        super().__init__()
        self._verify = verify
        self._may_skip = may_skip
        self._skipped = 0
        self._crc = crc32c() if verify else None
        self._need = _TF_RECORD_HEADER.size

    def _parse(self, data: bytes) -> tuple[list[bytes], int]:
        records: list[bytes] = []
        at, end = 0, len(data)
        size = _TF_RECORD_HEADER.size
        crc = self._crc
        while end - at >= size:
            length, stated = _TF_RECORD_HEADER.unpack_from(data, at)
            if crc is not None and masked(crc(data[at : at + _LENGTH_BYTES])) != stated:
                self._fail("the checksum of the record's length is wrong", b"" if at else data)
                return records, at
            if length >= _LONGEST_RECORD:
                self._fail("the record's length is more than any stream has", b"" if at else data)
                return records, at
            after = at + size + length + _CRC.size
            if after > end:
                self._need = after - at
                return records, at
            payload = data[at + size : at + size + length]
            if crc is None or masked(crc(payload)) == _CRC.unpack_from(data, after - _CRC.size)[0]:
                records.append(payload)
                self._skipped = 0
            elif self._skipped == self._may_skip:
                self._fail("the checksum of the record is wrong")
                return records, at
            else:
                self._skipped += 1
                self.number += 1
            at = after
        self._need = size
        return records, at

    def _end(self, rest: bytes) -> list[bytes]:
        if rest:
            self._fail(_CUT_IN_HEADER if len(rest) < _TF_RECORD_HEADER.size else _CUT_IN_RECORD)
        return []


class TextLine(Parser):
    """Lines, without their newline; the last may have none."""

    def feed(self, piece: bytes) -> list[bytes]:
        """As of any parser; what has no newline is not looked at again."""
        if b"\n" not in piece and self.offset + self._have >= len(_GZIP_MAGIC):
            self._pieces.append(piece)
            self._have += len(piece)
            return []
        return super().feed(piece)

    def _parse(self, data: bytes) -> tuple[list[bytes], int]:
        if self.offset == 0 and data.startswith(_GZIP_MAGIC):
            self._fail("this is no text", data)
            return [], 0
        *records, rest = data.split(b"\n")
        return records, len(data) - len(rest)

    def _end(self, rest: bytes) -> list[bytes]:
        return [rest] if rest else []


def crc32c() -> Callable[[bytes], int]:
    """A function for the checksum: google-crc32c's, or a slow one where that is not installed."""
    try:
        from google_crc32c import value
    except ImportError:
        return slow_crc32c
    found: Callable[[bytes], int] = value
    return found


def slow_crc32c(data: bytes) -> int:
    if not _TABLE:
        _TABLE.extend(_table())
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


_TABLE: list[int] = []


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ _CRC_POLYNOMIAL if crc & 1 else crc >> 1
        table.append(crc)
    return table


def masked(crc: int) -> int:
    """As a checksum stands in a TFRecord."""
    return ((crc >> 15 | crc << 17) + _CRC_MASK_DELTA) & 0xFFFFFFFF


def parser(record_format: str, verify: bool, may_skip: int) -> Parser:
    """A parser for a format: RecordIO, TFRecord or TextLine."""
    if record_format == "TFRecord":
        return TFRecord(verify, may_skip)
    return RecordIO() if record_format == "RecordIO" else TextLine()
