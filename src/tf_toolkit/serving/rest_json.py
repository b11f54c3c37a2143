"""Predict requests of TensorFlow Serving's REST API: JSON into arrays, and arrays into JSON.

https://www.tensorflow.org/tfx/serving/api_rest. Beyond it: ``output_filter``, a list of the outputs that are wanted,
as its gRPC API has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from tf_toolkit.serving.array_text import array_text, rows
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import HTTP_STATUS, RequestError, invalid
from tf_toolkit.serving.expectation import expected
from tf_toolkit.serving.json_arrays import BASE64_KEY, convert, is_base64
from tf_toolkit.serving.json_faults import Fault, first_fault, to_array
from tf_toolkit.serving.json_text import parse, shown
from tf_toolkit.serving.signature import DEFAULT_SIGNATURE, Signature, shape_text

_SIGNATURE_KEY = "signature_name"
_INSTANCES_KEY = "instances"
_INPUTS_KEY = "inputs"
_FILTER_KEY = "output_filter"


class PredictRequest(NamedTuple):
    """What a model is to be run with, and how its outputs are to be written."""

    signature_name: str
    signature: Signature
    inputs: dict[str, Array]
    # A value for each row, or whole outputs.
    row_format: bool
    # None for all.
    outputs: tuple[str, ...] | None
    # Rows of one value are answered as the values.
    bare: bool = False


def parse_predict(body: bytes, signatures: Mapping[str, Signature]) -> PredictRequest:
    """The request of a body. Raises RequestError."""
    return predict_request(parse_object(body), signatures, no_booleans=without_booleans(body))


def predict_request(
    document: dict[str, Any], signatures: Mapping[str, Signature], *, no_booleans: bool = False
) -> PredictRequest:
    """The request that these JSON values are; of ``no_booleans``, see ``to_array``. Raises RequestError."""
    name = requested_signature(document) if _SIGNATURE_KEY in document else DEFAULT_SIGNATURE
    signature = signatures.get(name)
    if signature is None:
        raise invalid(f'Serving signature name: "{name}" not found in signature def, which has: {_names(signatures)}')
    if not signature.inputs:
        raise invalid(f"Failed to get input map for signature: {name}")
    row_format = _INSTANCES_KEY in document
    try:
        if row_format:
            inputs = row_inputs(_instances(document), signature, no_booleans=no_booleans)
        else:
            inputs = _columns(document, signature, no_booleans)
    except RequestError as error:
        raise RequestError(error.status, f"{error.message.rstrip(' .')}; {expected(name, signature)}") from None
    outputs = _outputs(document[_FILTER_KEY], signature) if _FILTER_KEY in document else None
    return PredictRequest(name, signature, inputs, row_format, outputs)


def row_inputs(
    instances: list[Any], signature: Signature, *, key: str = _INSTANCES_KEY, no_booleans: bool = False
) -> dict[str, Array]:
    """The inputs of these rows, at least one, which the document has by that key. Raises RequestError."""
    first = instances[0]
    if type(first) is dict and _is_object(first):
        return _object_rows(instances, signature, key, no_booleans)
    if len(signature.inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    ((name, info),) = signature.inputs.items()
    array = convert(instances, info.dtype, no_booleans=no_booleans)
    if array is not None:
        return {name: array}
    index, fault = first_fault(instances, info.dtype)
    if _is_object(instances[index]):
        raise invalid(f"Expecting value/list but got object at item {index} of input list")
    raise invalid(f"Failed to process element: {index} of '{key}' list. Error: {fault}")


def render_predict(request: PredictRequest, outputs: Mapping[str, Array]) -> bytes:
    """The body of the answer. Raises RequestError."""
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    if request.row_format:
        return b'{"predictions":%s}' % _predictions(outputs)
    texts = {name: array_text(name, array) for name, array in outputs.items()}
    if len(texts) == 1:
        return b'{"outputs":%s}' % next(iter(texts.values()))
    return b'{"outputs":{%s}}' % b",".join([orjson.dumps(name) + b":" + text for name, text in texts.items()])


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises RequestError."""
    document = parse(body)
    if type(document) is not dict:
        raise invalid(f"JSON Value: {shown(document)} Is not object")
    return document


def without_booleans(body: bytes) -> bool:
    """Whether a JSON text certainly has none."""
    # One letter is found many times faster than a word, and texts of numbers hardly have these.
    return not ((b"r" in body and b"true" in body) or (b"l" in body and b"false" in body))


def requested_signature(document: dict[str, Any]) -> str:
    """The name of the signature that is asked for. Raises RequestError."""
    name = document.get(_SIGNATURE_KEY, "")
    if type(name) is not str:
        raise invalid(
            f"JSON Value: {shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name or DEFAULT_SIGNATURE


def _names(named: Mapping[str, object]) -> str:
    return ", ".join(sorted(named)) or "none"


def _is_object(value: object) -> bool:
    return type(value) is dict and not is_base64(value)


def _instances(document: dict[str, Any]) -> list[Any]:
    instances = document[_INSTANCES_KEY]
    if _INPUTS_KEY in document:
        raise invalid(
            f"JSON Value: {shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' keys "
            "to exist "
        )
    if type(instances) is not list:
        # The incumbent's spelling, which its users search for.
        raise invalid(f"JSON Value: {shown(document)} Excepting 'instances' to be an list/array")
    if not instances:
        raise invalid(f"JSON Value: {shown(document)} No values in 'instances' array")
    return instances


def _object_rows(instances: list[Any], signature: Signature, key: str, no_booleans: bool) -> dict[str, Array]:
    names = signature.inputs
    odd, message = _odd_row(instances, names, key)
    faults = {}
    inputs = {}
    for name, info in names.items() if odd else ():
        column = [instance[name] for instance in instances[:odd]]
        array = convert(column, info.dtype, no_booleans=no_booleans)
        if array is None:
            index, fault = first_fault(column, info.dtype)
            faults[index, name] = fault
        else:
            inputs[name] = array
    if faults:
        index, name = min(faults, key=lambda place: place[0])
        raise invalid(f"Failed to process element: {index} key: {name} of '{key}' list. Error: {faults[index, name]}")
    if message is not None:
        raise invalid(message)
    return inputs


def _odd_row(instances: list[Any], names: Mapping[str, object], key: str) -> tuple[int, str | None]:
    """The first row that is no object with exactly these names, and what is wrong; or how many rows there are."""
    keys = names.keys()
    for index, instance in enumerate(instances):
        if type(instance) is dict and instance.keys() == keys and not (BASE64_KEY in keys and is_base64(instance)):
            continue
        if not _is_object(instance):
            return index, f"Expecting object but got list at item {index} of input list"
        place = f"Failed to process element: {index}"
        for name in instance:
            if name not in names:
                error = Fault(f"JSON object: does not have named input: {name}")
                return index, f"{place} key: {name} of '{key}' list. Error: {error}"
        wanted = ",".join(sorted(names))
        return index, f"{place} of '{key}' list. JSON object: {shown(instance)} must only have keys: {wanted}"
    return len(instances), None


def _columns(document: dict[str, Any], signature: Signature, no_booleans: bool) -> dict[str, Array]:
    if _INPUTS_KEY not in document:
        raise invalid("Missing 'inputs' or 'instances' key")
    value = document[_INPUTS_KEY]
    if not _is_object(value):
        if len(signature.inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        value = dict.fromkeys(signature.inputs, value)
    inputs = {}
    for name, info in signature.inputs.items():
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        try:
            inputs[name] = to_array(value[name], info.dtype, no_booleans=no_booleans)
        except Fault as fault:
            raise RequestError(HTTP_STATUS[fault.code], f"{fault.message}, in input: {name}") from None
    return inputs


def _outputs(wanted: Any, signature: Signature) -> tuple[str, ...] | None:
    if type(wanted) is not list or not all(type(name) is str for name in wanted):
        raise invalid(f"JSON Value: {shown(wanted)} of '{_FILTER_KEY}' is not a list of names of outputs")
    for name in wanted:
        if name not in signature.outputs:
            raise invalid(f"'{_FILTER_KEY}' names no output: {name}; there are: {_names(signature.outputs)}")
    return tuple(dict.fromkeys(wanted)) or None


def _predictions(outputs: Mapping[str, Array]) -> bytes:
    size = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information {_advice(outputs)}")
        if size is not None and len(array) != size:
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {size}{_advice(outputs)}"
            )
        size = len(array)
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return array_text(name, array)
    columns = [rows(name, array) for name, array in outputs.items()]
    return orjson.dumps([dict(zip(outputs, row)) for row in zip(*columns)], option=orjson.OPT_SERIALIZE_NUMPY)


def _advice(outputs: Mapping[str, Array]) -> str:
    shapes = ", ".join(f"{name} {shape_text(array.shape)}" for name, array in outputs.items())
    return (
        f"; the outputs are {shapes}, which are no rows: ask with 'inputs' in place of 'instances' for whole outputs, "
        f"or with '{_FILTER_KEY}' for some"
    )
