"""Signatures of models that no test has to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tf_toolkit.serving.signature import DEFAULT_SIGNATURE, PREDICT, DataType, Signature, TensorInfo

FLOAT, INT32, STRING = DataType.DT_FLOAT, DataType.DT_INT32, DataType.DT_STRING
Shape = Sequence[int]


def tensor(dtype: DataType, shape: Shape | None = (-1,)) -> TensorInfo:
    return TensorInfo("tensor:0", dtype, None if shape is None else tuple(shape))


def signature(inputs: Mapping[str, TensorInfo], outputs: Mapping[str, TensorInfo] | None = None) -> Signature:
    return Signature(inputs, outputs or {"y": tensor(FLOAT)}, PREDICT)


def default(inputs: Mapping[str, TensorInfo], outputs: Mapping[str, TensorInfo] | None = None) -> dict[str, Signature]:
    return {DEFAULT_SIGNATURE: signature(inputs, outputs)}
