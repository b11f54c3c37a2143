"""The engine in another process: arrays go to TensorFlow Serving's REST API as JSON in columns, and come back so.

A signature of classify or regress is run by predict as well: its examples are strings like others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Optional

import numpy as np
import orjson

from tf_toolkit.serving import checks
from tf_toolkit.serving.array_text import array_text
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import HTTP_STATUS, ModelRunError, RequestError
from tf_toolkit.serving.json_arrays import convert
from tf_toolkit.serving.json_text import parse
from tf_toolkit.serving.model_server_client import Answer
from tf_toolkit.serving.model_server_settings import BACKEND, PROGRAM
from tf_toolkit.serving.rest_json import without_booleans
from tf_toolkit.serving.signature import NUMPY_TYPES, DataType, Signature, TensorInfo

# Method, path, body. Raises ModelRunError.
Ask = Callable[[str, str, Optional[bytes]], Answer]

_CARRIED = frozenset(
    {
        *(DataType.DT_FLOAT, DataType.DT_DOUBLE, DataType.DT_STRING, DataType.DT_BOOL),
        *(DataType.DT_INT8, DataType.DT_INT16, DataType.DT_INT32, DataType.DT_INT64),
        *(DataType.DT_UINT8, DataType.DT_UINT32, DataType.DT_UINT64),
    }
)
# Of codes with one status, the first.
_CODES = {status: code for code, status in list(HTTP_STATUS.items())[::-1]}
_SHOWN_BYTES = 200


class ModelServerEngine:
    """An Engine."""

    def __init__(self, signatures: Mapping[str, Signature], path: str, ask: Ask) -> None:
        """``path`` is that of the version, such as ``/v1/models/NAME/versions/1``."""
        self._signatures = signatures
        self._path = path
        self._ask = ask

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return self._signatures

    def run(
        self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        found = checks.signature_named(self._signatures, signature)
        checks.all_inputs(signature, found.inputs, inputs)
        wanted = checks.fetched(found, outputs)
        for tensors in (found.inputs, found.outputs):
            _check_types(tensors)
        answer = self._ask("POST", f"{self._path}:predict", _request(signature, found.inputs, inputs))
        if answer.status != 200:
            raise _refusal(answer)
        # It writes all of them.
        arrays = _outputs(answer.body, found.outputs)
        return {name: arrays[name] for name in wanted}

    def close(self) -> None:
        """The model stays in its process."""


class ForwardingRunner:
    """Runs requests side by side: what batches them is the model server."""

    def __init__(self, engine: ModelServerEngine, threads: ThreadPoolExecutor) -> None:
        self._engine = engine
        self._threads = threads

    async def run(
        self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """See Engine.run."""
        run = partial(self._engine.run, signature, inputs, outputs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    def close(self) -> None:
        """Nothing waits here."""


def unreadable(answer: Answer, why: str) -> ModelRunError:
    """For an answer that no model server gives."""
    shown = answer.body[:_SHOWN_BYTES].decode(errors="backslashreplace")
    return ModelRunError("INTERNAL", f"{PROGRAM} answered what cannot be read: {why}: {shown!r}")


def _check_types(tensors: Mapping[str, TensorInfo]) -> None:
    for name, info in tensors.items():
        if info.dtype not in _CARRIED:
            raise ModelRunError(
                "UNIMPLEMENTED",
                f"{name!r} is of the type {info.dtype.name}, which the REST API of {PROGRAM} does not carry; serve's "
                f"own engine does: unset {BACKEND}",
            )


def _request(signature: str, infos: Mapping[str, TensorInfo], inputs: Mapping[str, Array]) -> bytes:
    texts = {name: _text(name, inputs[name], info) for name, info in infos.items()}
    if len(texts) == 1:
        # By its name, one called b64 would be taken for an encoded string.
        (columns,) = texts.values()
    else:
        columns = b"{%s}" % b",".join([orjson.dumps(name) + b":" + text for name, text in texts.items()])
    return b'{"signature_name":%s,"inputs":%s}' % (orjson.dumps(signature), columns)


def _text(name: str, array: Array, info: TensorInfo) -> bytes:
    if info.dtype is DataType.DT_STRING:
        array = np.array(checks.strings(name, array), object).reshape(array.shape)
    elif array.dtype != NUMPY_TYPES[info.dtype]:
        raise checks.unfit(name, array, info.dtype)
    if array.size == 0 and 0 in array.shape[:-1]:
        raise ModelRunError("UNIMPLEMENTED", f"{name!r} is of the shape {list(array.shape)}, which no JSON can say")
    return array_text(name, array)


def _refusal(answer: Answer) -> ModelRunError:
    """What the model server says, with its status."""
    try:
        message = parse(answer.body)["error"]
        if not isinstance(message, str):
            raise TypeError
    except (RequestError, TypeError, KeyError, IndexError):
        return unreadable(answer, f"status {answer.status}")
    error = ModelRunError(_CODES.get(answer.status, "INTERNAL"), message)
    error.status = answer.status
    return error


def _outputs(body: bytes, infos: Mapping[str, TensorInfo]) -> dict[str, Array]:
    answer = Answer(200, body)
    try:
        document = parse(body)
    except RequestError as error:
        advice = "" if _is_text(body) else "; strings that are no text need outputs with names that end in _bytes"
        raise unreadable(answer, f"{error.message}{advice}") from None
    columns = document.get("outputs") if type(document) is dict else None
    if len(infos) == 1:
        columns = dict.fromkeys(infos, columns)
    if type(columns) is not dict or columns.keys() != infos.keys():
        raise unreadable(answer, f"the outputs {', '.join(infos)} are not all in it")
    no_booleans = without_booleans(body)
    return {name: _array(answer, name, columns[name], info, no_booleans) for name, info in infos.items()}


def _array(answer: Answer, name: str, value: Any, info: TensorInfo, no_booleans: bool) -> Array:
    array = convert(value, info.dtype, no_booleans=no_booleans)
    if array is None:
        raise unreadable(answer, f"output {name} is not of the type {info.dtype.name}")
    if array.size == 0 and info.shape is not None:
        # Of lists without elements, JSON does not say what these would have been.
        return array.reshape(*array.shape, *(max(0, size) for size in info.shape[array.ndim :]))
    return array


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
