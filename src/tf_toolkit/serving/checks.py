"""Whether what a request asks for fits the model, in words that are the same on every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import ModelRunError
from tf_toolkit.serving.signature import NUMPY_TYPES, DataType, Signature, TensorInfo


def unloaded() -> ModelRunError:
    """The engine is closed."""
    return ModelRunError("UNAVAILABLE", "the model has been unloaded")


def signature_named(signatures: Mapping[str, Signature], name: str) -> Signature:
    """The signature."""
    found = signatures.get(name)
    if found is None:
        raise ModelRunError("INVALID_ARGUMENT", f'Serving signature name: "{name}" not found in signature def')
    return found


def fetched(signature: Signature, outputs: Sequence[str] | None) -> Mapping[str, TensorInfo]:
    """The outputs of these names, or all."""
    if outputs is None:
        return signature.outputs
    for name in outputs:
        if name not in signature.outputs:
            raise ModelRunError("INVALID_ARGUMENT", f"output tensor alias not found in signature: {name}")
    return {name: signature.outputs[name] for name in outputs}


def all_inputs(signature: str, wanted: Mapping[str, object], given: Mapping[str, Array]) -> None:
    """Nothing is missing, and nothing unknown."""
    if given.keys() != wanted.keys():
        raise ModelRunError(
            "INVALID_ARGUMENT",
            f"signature {signature!r} takes {', '.join(wanted) or 'no input'}; given: {', '.join(given) or 'none'}",
        )


def strings(name: str, array: Array) -> list[bytes]:
    """The elements of an array of strings, text as UTF-8."""
    if array.dtype.kind not in "OSU":
        raise unfit(name, array, DataType.DT_STRING)
    items = []
    for item in array.ravel().tolist():
        if isinstance(item, str):
            item = item.encode()
        elif not isinstance(item, bytes):
            raise unfit(name, array, DataType.DT_STRING)
        items.append(item)
    return items


def unfit(name: str, array: Array, dtype: DataType) -> ModelRunError:
    """The array is of another type than the input."""
    wanted = "bytes" if dtype == DataType.DT_STRING else NUMPY_TYPES.get(dtype, dtype.name)
    return ModelRunError("INVALID_ARGUMENT", f"input {name!r} is of the type {array.dtype}; the model takes {wanted}")
