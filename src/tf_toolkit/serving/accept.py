"""The answers of /invocations: a model's outputs as the type that the client accepts.

JSON lines and CSV have exactly one line for each record, with no new line after the last, so that the platform can
join the answers of a batch with its input: it ends each answer with a new line itself.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping

import numpy as np
import orjson

from tf_toolkit.serving import csv_records, npy
from tf_toolkit.serving.array_text import rows
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import RequestError
from tf_toolkit.serving.expectation import BYTES_SUFFIX
from tf_toolkit.serving.media_types import CSV, JSON, JSON_LINES
from tf_toolkit.serving.rest_json import PredictRequest, render_predict
from tf_toolkit.serving.signature import shape_text


def render_invocation(request: PredictRequest, outputs: Mapping[str, Array], media_type: str) -> bytes:
    """The body of the answer, of one of ``media_types.ANSWERS``. Raises RequestError."""
    if request.bare:
        outputs = {name: array[:, 0] if array.shape[1:] == (1,) else array for name, array in outputs.items()}
    if media_type == JSON:
        return render_predict(request, outputs)
    if media_type == JSON_LINES:
        return _json_lines(_in_rows(outputs, media_type))
    if media_type == CSV:
        return _csv(request, _in_rows(outputs, media_type))
    if len(outputs) != 1:
        names = ", ".join(sorted(outputs))
        raise _unacceptable(f"{media_type} has one output, there are: {names}; name one in 'output_filter'")
    ((name, array),) = outputs.items()
    return npy.write(name, array)


def _in_rows(outputs: Mapping[str, Array], media_type: str) -> Mapping[str, Array]:
    """The outputs, if each has as many rows as the others."""
    if any(array.ndim == 0 for array in outputs.values()) or len({len(array) for array in outputs.values()}) != 1:
        shapes = ", ".join(f"{name} {shape_text(array.shape)}" for name, array in outputs.items())
        raise _unacceptable(f"{media_type} has a line for each record, but the outputs are no rows: {shapes}")
    return outputs


def _unacceptable(message: str) -> RequestError:
    return RequestError(406, f"{message}; or accept {JSON}")


def _json_lines(outputs: Mapping[str, Array]) -> bytes:
    """What stands in the list of 'predictions'."""
    columns = [rows(name, array) for name, array in outputs.items()]
    records = columns[0] if len(columns) == 1 else [dict(zip(outputs, row)) for row in zip(*columns)]
    return b"\n".join([orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY) for record in records])


def _csv(request: PredictRequest, outputs: Mapping[str, Array]) -> bytes:
    """The values of the outputs, in the order that was asked for, or of their names."""
    return csv_records.write([_table(name, outputs[name]) for name in request.outputs or sorted(outputs)])


def _table(name: str, array: Array) -> Array:
    """The array with all that belongs to one record in a row. Bytes that are no text are as in JSON."""
    if array.dtype.kind not in "fiubO":
        raise _unacceptable(f"{CSV} cannot hold values of type {array.dtype}, as output {name!r} has")
    table = array.reshape(len(array), math.prod(array.shape[1:]))
    if array.dtype.kind == "O" and name.endswith(BYTES_SUFFIX):
        table = np.array([[base64.b64encode(value) for value in row] for row in table], object).reshape(table.shape)
    return table
