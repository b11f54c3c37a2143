"""Reads a pass by the compiled reader of the distribution tf-toolkit-pipe-mode, where that is installed."""

from __future__ import annotations

import ctypes
import functools
import logging
import sys
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tf_toolkit.pipe_mode.channel import ChannelError
from tf_toolkit.pipe_mode.source import FORMATS, Source, name_of, print_totals

log = logging.getLogger("tf_toolkit.pipe_mode")

# There is none of that number; it gives nothing.
_NO_READER = 0


class Library:
    """Readers, by numbers, and the operation that hands out their records."""

    def __init__(self, path: str) -> None:
        self.read_records: Any = tf.load_op_library(path).tf_toolkit_read_records
        library = ctypes.CDLL(path)
        self._new = library.tf_toolkit_reader_new
        self._new.restype = ctypes.c_int64
        numbers = (ctypes.c_int, ctypes.c_int, ctypes.c_bool, ctypes.c_int64, ctypes.c_int64)
        self._new.argtypes = (*numbers, ctypes.c_char_p, ctypes.c_char_p)
        self._totals = library.tf_toolkit_reader_totals
        self._totals.argtypes = (ctypes.c_int64, ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_uint64))
        self._delete = library.tf_toolkit_reader_delete
        self._delete.argtypes = (ctypes.c_int64,)

    def new(self, source: Source, descriptor: int, epoch: int) -> int:
        """A reader for an open FIFO, which is the reader's from now on."""
        record_format = FORMATS.index(source.record_format)
        name = name_of(source, epoch).encode()
        return int(self._new(descriptor, record_format, source.verify, source.may_skip, source.interval, name, None))

    def failed(self, error: str) -> int:
        """A reader that has nothing but an error."""
        return int(self._new(-1, 0, False, 0, 0, b"", error.encode()))

    def totals(self, reader: int) -> tuple[float, int]:
        """Seconds and bytes so far."""
        nanoseconds, size = ctypes.c_uint64(), ctypes.c_uint64()
        self._totals(reader, ctypes.byref(nanoseconds), ctypes.byref(size))
        return nanoseconds.value / 1e9, size.value

    def delete(self, reader: int) -> None:
        """Close the FIFO. An operation that is at work on it ends first."""
        self._delete(reader)


@functools.cache
def library() -> Library | None:
    """The compiled reader, or None where there is none, or none for this TensorFlow."""
    try:
        from tf_toolkit_pipe_mode import LIBRARY
    except ImportError:
        return None
    try:
        return Library(LIBRARY)
    except (OSError, AttributeError, tf.errors.OpError) as error:
        log.warning("the compiled reader %s is not used: %s", LIBRARY, error)
        return None


def chunks(library: Library, source: Source, wanted: int) -> tf.data.Dataset:
    """Vectors of so many records, and a last one of fewer; of any number for 0. Some are empty."""
    number = tf.TensorSpec([], tf.int64)
    readers = tf.data.Dataset.from_generator(lambda: _readers(library, source), output_signature=number)

    def of_reader(reader: tf.Tensor) -> tf.data.Dataset:
        def read(_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            records, more = library.read_records(reader=reader, wanted=wanted)
            return tf.ensure_shape(records, [None]), more

        found = tf.data.Dataset.range(sys.maxsize).map(read)
        return found.take_while(lambda records, more: more).map(lambda records, more: records)

    return readers.flat_map(of_reader)


def _readers(library: Library, source: Source) -> Iterator[int]:
    """The reader of one pass, once its FIFO is there."""
    opened = None
    try:
        for opened in source.channel.open():
            if opened is None:
                yield _NO_READER
    except ChannelError as error:
        reader = library.failed(str(error))
    else:
        assert opened is not None
        reader = library.new(source, opened.descriptor, opened.epoch)
    try:
        yield reader
    finally:
        if source.benchmark and opened is not None:
            print_totals(name_of(source, opened.epoch), *library.totals(reader))
        library.delete(reader)
