"""What a signature expects, in the words that end the message about a request that it does not get on with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import ModelRunError
from tf_toolkit.serving.json_arrays import BASE64_KEY
from tf_toolkit.serving.json_faults import type_name
from tf_toolkit.serving.signature import DataType, Signature, TensorInfo, shape_text

BYTES_SUFFIX = "_bytes"
# As many of a dimension's elements stand in an example, and as many inputs in a message.
_MOST_ELEMENTS = 3
_MOST_INPUTS = 8


def expected(name: str, signature: Signature) -> str:
    """The inputs, and a request that has them: ``expects x: float [-1,3], for example {"instances": ...}``."""
    return f"signature '{name}' expects {tensors(signature.inputs)}, for example {_example(signature.inputs)}"


def tensors(infos: Mapping[str, TensorInfo]) -> str:
    """Inputs or outputs, such as ``x: float [-1,3]``."""
    return _list([f"{name}: {type_name(info.dtype)} {shape_text(info.shape)}" for name, info in infos.items()])


def explained(error: ModelRunError, name: str, signature: Signature, inputs: Mapping[str, Array]) -> ModelRunError:
    """The same error, which also names the inputs that are not of the shape that the signature has for them.

    Only where TensorFlow has refused them, for many models take shapes that their signature does not admit to.
    """
    wrong = [
        f"{key} is {shape_text(inputs[key].shape)}"
        for key, info in signature.inputs.items()
        if key in inputs and not fits(inputs[key].shape, info.shape)
    ]
    if error.status != 400 or not wrong:
        return error
    return ModelRunError(error.code, f"{error.message}; {_list(wrong)}, but {expected(name, signature)}")


def fits(shape: Sequence[int], known: Sequence[int] | None) -> bool:
    """Whether an array of this shape is what the signature has: the dimensions, and the sizes that it knows."""
    if known is None:
        return True
    return len(shape) == len(known) and all(size in (-1, found) for size, found in zip(known, shape))


def _list(items: Sequence[str]) -> str:
    more = len(items) - _MOST_INPUTS
    return ", ".join(items[:_MOST_INPUTS]) + (f" and {more} more" if more > 0 else "")


def _example(inputs: Mapping[str, TensorInfo]) -> str:
    in_rows = all(info.shape is None or info.shape for info in inputs.values())
    values = {}
    for name, info in list(inputs.items())[:_MOST_INPUTS]:
        shape = info.shape or ()
        values[name] = _nested(shape[1:] if in_rows else shape, _value(name, info.dtype))
    members = [f"{json.dumps(name)}: {value}" for name, value in values.items()]
    if len(inputs) > len(values):
        members.append("...")
    text = "".join(values.values()) if len(inputs) == 1 else f"{{{', '.join(members)}}}"
    return f'{{"instances": [{text}]}}' if in_rows else f'{{"inputs": {text}}}'


def _nested(shape: Sequence[int], value: str) -> str:
    for size in reversed(shape):
        some = [value] * max(1, min(size, _MOST_ELEMENTS))
        value = f"[{', '.join([*some, '...'] if size > _MOST_ELEMENTS else some)}]"
    return value


def _value(name: str, dtype: DataType) -> str:
    if dtype is DataType.DT_STRING:
        return f'{{"{BASE64_KEY}": "dGV4dA=="}}' if name.endswith(BYTES_SUFFIX) else '"text"'
    if dtype is DataType.DT_BOOL:
        return "false"
    return "0.0" if dtype in (DataType.DT_HALF, DataType.DT_FLOAT, DataType.DT_DOUBLE) else "0"
