"""The first requests of a model: TensorFlow plans, compiles and takes memory at those, and no user should wait for it.

They are the model's own, in a file beside it as TensorFlow Serving has it, or else zeros of the signatures' shapes.
https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from __future__ import annotations

import itertools
import logging
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tf_toolkit.serving import api_messages, wire
from tf_toolkit.serving.engine import Array, Engine
from tf_toolkit.serving.errors import ModelRunError
from tf_toolkit.serving.signature import NUMPY_TYPES, DataType, Signature, TensorInfo

log = logging.getLogger("tf_toolkit")

FILE_NAME = "assets.extra/tf_serving_warmup_requests"
_MOST_RECORDS = 1000

# Length, and its checksum; after the record comes its own. They guard against a bad disk under a training set; here
# whatever is wrong shows when the record is read.
_TF_RECORD_HEADER = struct.Struct("<QI")
_CHECKSUM_SIZE = 4

# tensorflow_serving/apis/prediction_log.proto, PredictionLog, and the requests that it holds.
_CLASSIFY_LOG, _REGRESS_LOG, _MULTI_INFERENCE_LOG, _PREDICT_LOG = 2, 3, 4, 6
_REQUEST = 1
# MultiInferenceRequest; a task has the model where other requests have it.
_TASKS = 1
# What classify and regress signatures call their input.
_EXAMPLES_INPUT = "inputs"


class Request(NamedTuple):
    """What to run."""

    signature: str
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...] | None = None


def warm_up(engine: Engine, directory: Path) -> None:
    """Run the first requests. What fails is told in the log: other requests may be right."""
    file = directory / FILE_NAME
    if not file.exists():
        for request in zeros(engine.signatures):
            _try(engine, request, logging.DEBUG, "zeros")
        return
    try:
        for number, request in enumerate(requests(file)):
            _try(engine, request, logging.WARNING, f"{file}: request {number}")
    except (OSError, wire.WireError) as error:
        log.warning("%s: these are no warm-up requests, from here on: %s", file, error)


def _try(engine: Engine, request: Request, level: int, which: str) -> None:
    try:
        engine.run(request.signature, request.inputs, request.outputs)
    except ModelRunError as error:
        message = error.message.partition("\n")[0]
        log.log(level, "%s: signature %s refuses it: %s: %s", which, request.signature, error.code, message)


def zeros(signatures: Mapping[str, Signature]) -> Iterator[Request]:
    """One element along each dimension that is not known, and along one where not even their number is."""
    for name, signature in signatures.items():
        if all(info.dtype in NUMPY_TYPES for info in signature.inputs.values()):
            yield Request(name, {key: zero_array(info) for key, info in signature.inputs.items()})


def zero_array(info: TensorInfo) -> Array:
    """Zeros, or empty strings."""
    return np.full(zero_shape(info), b"" if info.dtype == DataType.DT_STRING else 0, NUMPY_TYPES[info.dtype])


def zero_shape(info: TensorInfo) -> tuple[int, ...]:
    """The shape that is taken where the signature leaves it open."""
    return (1,) if info.shape is None else tuple(abs(size) for size in info.shape)


def requests(file: Path) -> Iterator[Request]:
    """The requests of a file of warm-up requests. Raises WireError for what is none."""
    data = memoryview(file.read_bytes())
    records = _records(data)
    for record in itertools.islice(records, _MOST_RECORDS):
        yield from _requests(record)
    if next(records, None) is not None:
        log.warning("%s: only the first %d requests are taken", file, _MOST_RECORDS)


def _records(data: memoryview) -> Iterator[memoryview]:
    at = 0
    while at < len(data):
        if len(data) - at < _TF_RECORD_HEADER.size:
            raise wire.WireError("the file ends inside a record's header")
        length, _ = _TF_RECORD_HEADER.unpack_from(data, at)
        at += _TF_RECORD_HEADER.size
        if length + _CHECKSUM_SIZE > len(data) - at:
            raise wire.WireError(f"a record of {length} bytes begins {len(data) - at} bytes before the end")
        yield data[at : at + length]
        at += length + _CHECKSUM_SIZE


def _requests(record: memoryview) -> Iterator[Request]:
    """Those of one PredictionLog; none of a kind that only other servers answer."""
    for kind, log_value in wire.fields(record):
        if kind not in (_CLASSIFY_LOG, _REGRESS_LOG, _MULTI_INFERENCE_LOG, _PREDICT_LOG):
            continue
        for field, value in wire.fields(wire.data(log_value)):
            if field == _REQUEST:
                request = wire.data(value)
                yield from [_predict(request)] if kind == _PREDICT_LOG else _of_examples(request, kind)


def _predict(message: memoryview) -> Request:
    return Request(api_messages.request_spec(message).signature, *api_messages.predict_request(message))


def _of_examples(message: memoryview, kind: int) -> Iterator[Request]:
    examples = np.array(api_messages.request_examples(message), object)
    if kind != _MULTI_INFERENCE_LOG:
        yield Request(api_messages.request_spec(message).signature, {_EXAMPLES_INPUT: examples})
        return
    for field, task in wire.fields(message):
        if field == _TASKS:
            yield Request(api_messages.request_spec(wire.data(task)).signature, {_EXAMPLES_INPUT: examples})
