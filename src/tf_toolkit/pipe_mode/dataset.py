"""The dataset: each of its iterators reads the channel's next FIFO to its end.

Records come in chunks, by the compiled reader or in Python, and are taken apart at the end; `batch` has the chunks be
the batches. Nothing in it blocks for long: what waits for a writer comes back with nothing several times a second, so
that an iterator whose writer does nothing can be ended.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from tf_toolkit.contract import Paths
from tf_toolkit.pipe_mode import compiled_reader, python_reader
from tf_toolkit.pipe_mode.channel import PipeModeDatasetException, pipe_mode_channel
from tf_toolkit.pipe_mode.source import FORMATS, Source


class PipeModeDataset(tf.data.Dataset):  # type: ignore[misc]
    """The records of a channel in Pipe mode: scalars of ``tf.string``, in the order in which they come.

    Each iterator, so each epoch of ``repeat`` and each loop, is one pass over the channel's data.

    Args:
        channel: the channel's name.
        record_format: ``RecordIO``, ``TFRecord`` or ``TextLine``.
        state_dir: where the number of the next pass is kept; it is made. ``/opt/ml/pipe_state`` if none is given.
        pipe_dir: where the platform's FIFOs are, ``/opt/ml/input/data``.
        config_dir: where inputdataconfig.json is, ``/opt/ml/input/config``. All three follow ``SAGEMAKER_BASE_DIR``.
        benchmark: print how long the reading of each pass took, in milliseconds, its bytes, and GB/s.
        benchmark_records_interval: print a line each time that so many records were read; 0 for none.
        max_corrupted_records_to_skip: of TFRecord, how many records in a row may be left out because their checksum
            is wrong. A good one between them starts the count again. The checksum of a length must always be right.
        verify_checksums: of TFRecord, whether checksums are looked at.

    Raises PipeModeDatasetException where the channel is not one in Pipe mode, or is asked for what it cannot do, and
    tf.errors.InvalidArgumentError for a format that there is not. What is wrong with a stream is raised by its
    iterator, after the records before it: as tf.errors.InternalError, or without the compiled reader as
    tf.errors.UnknownError.
    """

    def __init__(
        self,
        channel: str,
        record_format: str = "RecordIO",
        state_dir: str | None = None,
        pipe_dir: str | None = None,
        config_dir: str | None = None,
        benchmark: bool = False,
        benchmark_records_interval: int = 0,
        max_corrupted_records_to_skip: int = 0,
        verify_checksums: bool = True,
    ) -> None:
        if record_format not in FORMATS:
            known = ", ".join(FORMATS)
            raise tf.errors.InvalidArgumentError(None, None, f"record_format is {record_format!r}, but one of {known}")
        if max_corrupted_records_to_skip and record_format != "TFRecord":
            raise PipeModeDatasetException(
                f"max_corrupted_records_to_skip is for TFRecord: {record_format} has no checksums"
            )
        paths = Paths.of(os.environ)
        self._source = Source(
            channel=pipe_mode_channel(
                channel,
                Path(config_dir or paths.input_config),
                Path(pipe_dir or paths.input_data),
                Path(state_dir or paths.pipe_state),
            ),
            record_format=record_format,
            verify=verify_checksums,
            may_skip=max_corrupted_records_to_skip,
            benchmark=benchmark,
            interval=benchmark_records_interval,
        )
        self._records = _chunks(self._source, 0).unbatch()
        super().__init__(tf.data.experimental.to_variant(self._records))

    def _inputs(self) -> list[tf.data.Dataset]:
        return [self._records]

    @property
    def element_spec(self) -> tf.TensorSpec:
        """One record."""
        return tf.TensorSpec([], tf.string)

    def batch(self, batch_size: Any, drop_remainder: Any = False, *arguments: Any, **options: Any) -> tf.data.Dataset:
        """As of any dataset, but records are read as batches, not one by one."""
        if not isinstance(batch_size, int) or not isinstance(drop_remainder, bool) or arguments or options:
            return super().batch(batch_size, drop_remainder, *arguments, **options)
        if batch_size < 1:
            return super().batch(batch_size, drop_remainder)
        batches = _chunks(self._source, batch_size)
        if drop_remainder:
            whole = batches.filter(lambda records: tf.size(records) == batch_size)
            batches = whole.map(lambda records: tf.ensure_shape(records, [batch_size]))
        else:
            batches = batches.filter(lambda records: tf.size(records) > 0)
        # The next batch is read while this one is used. A pipeline without this at its end is given one by tf.data that
        # keeps ever more batches.
        return batches.prefetch(1)


def _chunks(source: Source, wanted: int) -> tf.data.Dataset:
    """Vectors of so many records, and a last one of fewer; of any number for 0. Some are empty."""
    library = compiled_reader.library()
    if library is not None:
        return compiled_reader.chunks(library, source, wanted)
    chunk = tf.TensorSpec([None], tf.string)
    return tf.data.Dataset.from_generator(lambda: python_reader.chunks(source, wanted), output_signature=chunk)
