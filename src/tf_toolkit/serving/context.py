"""The Context that handlers get: what a request is about, and a way to the models without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from tf_toolkit.serving.custom_attributes import CustomAttributes
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import RequestError, invalid
from tf_toolkit.serving.grpc_listener import GrpcListener, Opened
from tf_toolkit.serving.registry import Registry
from tf_toolkit.serving.signature import DEFAULT_SIGNATURE, NUMPY_TYPES, Signature, TensorInfo

_PREDICT = "predict"


class _WhenAsked:
    """Stands for what a handler has to ask for by name, or by unpacking."""

    def __repr__(self) -> str:
        return "<opened when asked for>"


_WHEN_ASKED = _WhenAsked()


class _Fields(NamedTuple):
    """By the names, and in the order, that scripts know."""

    model_name: str
    # Of what is asked for, or the newest; empty where no version answers.
    model_version: str
    method: str
    rest_uri: str
    grpc_port: Any
    channel: Any
    # As the header came; None where it did not.
    custom_attributes: str | None
    request_content_type: str
    accept_header: str
    # Bytes of the body.
    content_length: int
    # Seconds.
    timeout: float


class _Models(NamedTuple):
    registry: Registry
    # Which the models run on; handlers do not.
    loop: asyncio.AbstractEventLoop
    # The version that the request asks for.
    version: int | None
    grpc: GrpcListener


class Context(_Fields):
    """Of one request."""

    _models: _Models

    @property
    def grpc_port(self) -> Any:
        """Where TensorFlow Serving's gRPC API is answered: on localhost, from when this is first asked for."""
        value = super().grpc_port
        return self._opened().port if value is _WHEN_ASKED else value

    @property
    def channel(self) -> Any:
        """A grpc.Channel to there, which all requests share."""
        value = super().channel
        return self._opened().channel if value is _WHEN_ASKED else value

    @property
    def grpc_uri(self) -> Any:
        """Another name of ``grpc_port``."""
        return self.grpc_port

    def _opened(self) -> Opened:
        return self._models.grpc.opened(self._models.loop)

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, name) for name in self._fields)

    def __getitem__(self, place: Any) -> Any:
        return tuple(self)[place] if isinstance(place, slice) else getattr(self, self._fields[place])

    def predict(
        self,
        inputs: Mapping[str, Array] | Array,
        signature_name: str = DEFAULT_SIGNATURE,
        model_name: str | None = None,
        model_version: int | str | None = None,
    ) -> dict[str, Array]:
        """What a model makes of arrays, or of lists of values, by the names of the outputs.

        ``inputs`` are by name, or the value itself where there is one input. Without a name and a version, the model is
        the request's. Strings come out as bytes. Raises RequestError, which answers the request if it is not caught.
        """
        models = self._models
        if model_version is not None:
            version: int | None = int(model_version)
        else:
            version = models.version if model_name in (None, self.model_name) else None
        servable = models.registry.servable(model_name or self.model_name, version)
        signature = servable.engine.signatures.get(signature_name)
        if signature is None:
            raise invalid(
                f"there is no signature {signature_name!r} in {servable}; it has {_listed(servable.engine.signatures)}"
            )
        arrays = _arrays(inputs, signature_name, signature)
        running = asyncio.run_coroutine_threadsafe(servable.run(signature_name, arrays), models.loop)
        return running.result()

    def _replace(self, **fields: Any) -> Context:
        # What has not been asked for stays so.
        values: dict[str, Any] = dict(zip(self._fields, super().__iter__()))
        changed = Context(**{**values, **fields})
        changed._models = self._models
        return changed


def make(
    registry: Registry,
    model_name: str,
    asked: CustomAttributes,
    grpc: GrpcListener,
    *,
    rest_port: int,
    custom_attributes: str | None,
    content_type: str,
    accept: str,
    content_length: int,
    timeout: float,
) -> Context:
    """The context of a request for ``model_name``. To be called on the event loop that models run on."""
    method = asked.method or _PREDICT
    at_version = "" if asked.model_version is None else f"/versions/{asked.model_version}"
    context = Context(
        model_name=model_name,
        model_version=asked.model_version or _newest(registry, model_name),
        method=method,
        rest_uri=f"http://localhost:{rest_port}/v1/models/{quote(model_name, safe='')}{at_version}:{method}",
        grpc_port=_WHEN_ASKED,
        channel=_WHEN_ASKED,
        custom_attributes=custom_attributes,
        request_content_type=content_type,
        accept_header=accept,
        content_length=content_length,
        timeout=timeout,
    )
    context._models = _Models(registry, asyncio.get_running_loop(), asked.version, grpc)
    return context


def _newest(registry: Registry, model_name: str) -> str:
    try:
        return str(registry.servable(model_name).version)
    except RequestError:
        return ""


def _arrays(inputs: Mapping[str, Array] | Array, name: str, signature: Signature) -> dict[str, Array]:
    wanted = signature.inputs
    if not isinstance(inputs, Mapping):
        if len(wanted) != 1:
            raise invalid(f"signature {name!r} takes {_listed(wanted)}; give a dict of them")
        inputs = {next(iter(wanted)): inputs}
    if inputs.keys() != wanted.keys():
        raise invalid(f"signature {name!r} takes {_listed(wanted)}; given: {_listed(inputs)}")
    return {key: _array(key, value, wanted[key]) for key, value in inputs.items()}


def _array(name: str, value: Array, info: TensorInfo) -> Array:
    """In the input's type. Floats may lose digits, and integers nothing."""
    wanted = np.dtype(NUMPY_TYPES[info.dtype])
    if wanted.kind == "O":
        return _strings(name, np.array(value, object))
    try:
        array = np.asarray(value)
    except ValueError as error:
        # Lists of different lengths.
        raise invalid(f"input {name!r}: {error}") from None
    numbers = array.dtype.kind in ("biufc" if wanted.kind != "b" else "b")
    if not numbers or (array.dtype.kind == "c" and wanted.kind != "c"):
        raise invalid(f"input {name!r} is of the type {array.dtype}; the model takes {wanted}")
    with np.errstate(all="ignore"):
        cast = array.astype(wanted, copy=False)
    if wanted.kind in "iu" and not np.array_equal(cast, array):
        raise invalid(f"input {name!r} has values that are no {wanted}")
    return cast


def _strings(name: str, array: Array) -> Array:
    """Of bytes, in place."""
    for place, item in enumerate(array.flat):
        if isinstance(item, str):
            array.flat[place] = item.encode()
        elif not isinstance(item, bytes):
            raise invalid(f"input {name!r} has a value of the type {type(item).__name__}; the model takes str or bytes")
    return array


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(map(repr, names)) or "nothing"
