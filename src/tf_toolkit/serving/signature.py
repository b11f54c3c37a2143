"""What a model says of itself: its signatures, with the types and shapes of what goes in and comes out.

DataType's numbers: tensorflow/core/framework/types.proto.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class DataType(enum.IntEnum):
    """TensorFlow's types, by the names that metadata shows."""

    DT_INVALID = 0
    DT_FLOAT = 1
    DT_DOUBLE = 2
    DT_INT32 = 3
    DT_UINT8 = 4
    DT_INT16 = 5
    DT_INT8 = 6
    DT_STRING = 7
    DT_COMPLEX64 = 8
    DT_INT64 = 9
    DT_BOOL = 10
    DT_QINT8 = 11
    DT_QUINT8 = 12
    DT_QINT32 = 13
    DT_BFLOAT16 = 14
    DT_QINT16 = 15
    DT_QUINT16 = 16
    DT_UINT16 = 17
    DT_COMPLEX128 = 18
    DT_HALF = 19
    DT_RESOURCE = 20
    DT_VARIANT = 21
    DT_UINT32 = 22
    DT_UINT64 = 23


# The types of arrays; strings are arrays of bytes objects.
NUMPY_TYPES: Mapping[DataType, str] = {
    DataType.DT_FLOAT: "float32",
    DataType.DT_DOUBLE: "float64",
    DataType.DT_HALF: "float16",
    DataType.DT_INT8: "int8",
    DataType.DT_INT16: "int16",
    DataType.DT_INT32: "int32",
    DataType.DT_INT64: "int64",
    DataType.DT_UINT8: "uint8",
    DataType.DT_UINT16: "uint16",
    DataType.DT_UINT32: "uint32",
    DataType.DT_UINT64: "uint64",
    DataType.DT_BOOL: "bool",
    DataType.DT_COMPLEX64: "complex64",
    DataType.DT_COMPLEX128: "complex128",
    DataType.DT_STRING: "object",
}


class TensorInfo(NamedTuple):
    """One input or output of a signature."""

    # In the graph, such as "serving_default_x:0".
    name: str
    dtype: DataType
    # -1 for a size that is not known, None where not even their number is.
    shape: tuple[int, ...] | None


class Signature(NamedTuple):
    """One way to run a model."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    # Such as "tensorflow/serving/predict".
    method_name: str


PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
DEFAULT_SIGNATURE = "serving_default"


def shape_text(shape: Sequence[int] | None) -> str:
    """As messages have it: ``[-1,3]``, ``[?]`` where not even the number of dimensions is known."""
    return "[?]" if shape is None else f"[{','.join(map(str, shape))}]"
