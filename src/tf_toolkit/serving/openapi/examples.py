"""Bodies of requests that a model answers: zeros of its signatures' shapes, as for the warm-up."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from tf_toolkit.serving.expectation import BYTES_SUFFIX
from tf_toolkit.serving.json_arrays import BASE64_KEY, FLOATS
from tf_toolkit.serving.media_types import NPY
from tf_toolkit.serving.openapi.schemas import in_rows
from tf_toolkit.serving.signature import DEFAULT_SIGNATURE, DataType, Signature, TensorInfo
from tf_toolkit.serving.warm_up import zero_array, zero_shape

# Larger ones would make the description as large as the models.
_MOST_VALUES = 10_000


def are_made(signature: Signature) -> bool:
    """Whether there are examples for this signature."""
    return sum(math.prod(zero_shape(info)) for info in signature.inputs.values()) <= _MOST_VALUES


def predict(name: str, signature: Signature) -> dict[str, Any]:
    """The body of a request to predict, in rows where there are any."""
    named = {} if name == DEFAULT_SIGNATURE else {"signature_name": name}
    if in_rows(signature):
        return {**named, "instances": instances(signature)}
    columns = _columns(signature)
    return {**named, "inputs": next(iter(columns.values())) if len(columns) == 1 else columns}


def instances(signature: Signature) -> list[Any]:
    """The rows, of one input without its name."""
    columns = _columns(signature)
    if len(columns) == 1:
        return list(next(iter(columns.values())))
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def of_method(name: str, signature: Signature, *, of_features: bool) -> dict[str, Any]:
    """The body of a request to classify or regress: the inputs as features, or tf.Example messages without any."""
    named = {} if name == DEFAULT_SIGNATURE else {"signature_name": name}
    if not of_features:
        return {**named, "examples": [{}]}
    columns = _columns(signature)
    return {**named, "examples": [dict(zip(columns, row)) for row in zip(*columns.values())]}


def json_lines(rows: Sequence[Any]) -> str:
    """A line for each row."""
    return "".join(orjson.dumps(row).decode() + "\n" for row in rows)


def csv(info: TensorInfo) -> str:
    """A line for each row."""
    shape = zero_shape(info)
    value = '""' if info.dtype is DataType.DT_STRING else orjson.dumps(_zero("", info)).decode()
    return (",".join([value] * math.prod(shape[1:])) + "\n") * shape[0]


def npy(info: TensorInfo) -> str:
    """As a data: URL, for JSON cannot hold these bytes. https://www.rfc-editor.org/rfc/rfc2397"""
    array = zero_array(info)
    file = io.BytesIO()
    np.save(file, array.astype("S") if array.dtype == object else array, allow_pickle=False)
    return f"data:{NPY};base64,{base64.b64encode(file.getvalue()).decode()}"


def _columns(signature: Signature) -> dict[str, Any]:
    """The whole inputs."""
    return {name: _nested(zero_shape(info), _zero(name, info)) for name, info in signature.inputs.items()}


def _zero(name: str, info: TensorInfo) -> Any:
    """A value of an input of that name, as JSON has it."""
    if info.dtype is DataType.DT_STRING:
        return {BASE64_KEY: ""} if name.endswith(BYTES_SUFFIX) else ""
    if info.dtype is DataType.DT_BOOL:
        return False
    return 0.0 if info.dtype in FLOATS else 0


def _nested(shape: Sequence[int], value: Any) -> Any:
    for size in reversed(shape):
        value = [value] * size
    return value
