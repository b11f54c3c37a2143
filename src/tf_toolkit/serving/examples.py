"""``tf.Example``: features from JSON, and their protobuf encoding.

https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tf_toolkit.serving.errors import invalid
from tf_toolkit.serving.json_arrays import decoded, is_base64
from tf_toolkit.serving.json_faults import json_type
from tf_toolkit.serving.json_text import shown
from tf_toolkit.serving.wire import bytes_field, encoded


class Feature(NamedTuple):
    """``kind`` is "bytes", "float" or "int64"; empty where there are no values. A float is its four bytes."""

    kind: str
    values: Sequence[Any]


def features(example: Any) -> dict[str, Feature]:
    """The features of a JSON object: a value or a list of them by each name. Raises RequestError."""
    if type(example) is not dict:
        raise invalid(f"Example must be JSON object but got JSON {json_type(example)}")
    return {name: _feature(name, value if type(value) is list else [value]) for name, value in example.items()}


def encode(example: Mapping[str, Feature]) -> bytes:
    """A serialized ``tf.Example``."""
    entries = [
        bytes_field(1, bytes_field(1, name.encode()) + bytes_field(2, _encoded(feature)))
        for name, feature in example.items()
    ]
    return bytes_field(1, b"".join(entries))


def _feature(name: str, values: list[Any]) -> Feature:
    kind = ""
    found: list[Any] = []
    for value in values:
        value_kind, plain = _plain(name, value)
        if kind not in ("", value_kind):
            raise invalid(f"Unexpected element type in feature: {name} expecting type: {kind}")
        kind = value_kind
        found.append(plain)
    return Feature(kind, found)


def _plain(name: str, value: Any) -> tuple[str, Any]:
    """The kind of a JSON value, and what is written for it."""
    if type(value) is str:
        return "bytes", value.encode()
    if type(value) is float:
        try:
            return "float", struct.pack("<f", value)
        except OverflowError:
            raise invalid(
                f"Cannot convert JSON value: {shown(value)} to float without loss of precision, in feature: {name}"
            ) from None
    if type(value) is int or type(value) is bool:
        if value >= 1 << 63:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return "int64", value
    if not is_base64(value):
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")
    data = decoded(value)
    if data is None:
        raise invalid(f"Unable to base64 decode feature: {name}")
    return "bytes", data


def _encoded(feature: Feature) -> bytes:
    if feature.kind == "bytes":
        return bytes_field(1, b"".join([bytes_field(1, value) for value in feature.values]))
    if feature.kind == "float":
        return bytes_field(2, bytes_field(1, b"".join(feature.values)))
    if feature.kind == "int64":
        return bytes_field(3, bytes_field(1, b"".join(map(encoded, feature.values))))
    return b""
