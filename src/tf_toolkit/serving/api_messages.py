"""The messages of TensorFlow Serving's gRPC API, and of its logs of requests: tensorflow_serving/apis/*.proto.

The numbers of their fields stand below. A message that is none raises WireError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tf_toolkit.serving import tensor_proto, wire
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.signature import DEFAULT_SIGNATURE, Signature, TensorInfo
from tf_toolkit.serving.wire import bytes_field, varint_field

# ModelSpec
_NAME, _VERSION, _SIGNATURE_NAME, _VERSION_LABEL = 1, 2, 3, 4
# google.protobuf.Int64Value and Any, and each entry of a map.
_VALUE = 1
_TYPE_URL, _ANY_VALUE = 1, 2
_KEY, _ENTRY_VALUE = 1, 2
# PredictRequest
_MODEL_SPEC, _INPUTS, _OUTPUT_FILTER = 1, 2, 3
# ClassificationRequest and RegressionRequest
_INPUT = 2
# Input: a list of examples, or one with a context that belongs to each of them.
_EXAMPLE_LIST, _EXAMPLE_LIST_WITH_CONTEXT = 1, 2
_EXAMPLES, _CONTEXT = 1, 2
# GetModelMetadataRequest
_METADATA_FIELD = 2
# Answers. Those of classify and regress are lists within a result, of what has these fields.
_OUTPUTS, _OF_MODEL = 1, 2
_RESULT, _ITEMS = 1, 1
_LABEL, _SCORE, _REGRESSED = 1, 2, 1
# GetModelMetadataResponse, and in it SignatureDefMap, SignatureDef and TensorInfo.
_METADATA_OF, _METADATA = 1, 2
_SIGNATURE_DEF = 1
_SIGNATURE_INPUTS, _SIGNATURE_OUTPUTS, _METHOD_NAME = 1, 2, 3
_TENSOR_NAME, _DTYPE, _SHAPE = 1, 2, 3
_SIGNATURE_DEF_MAP = b"type.googleapis.com/tensorflow.serving.SignatureDefMap"
SIGNATURE_DEF = "signature_def"


class ModelSpec(NamedTuple):
    """Which model, which of its versions, and which of its signatures."""

    name: str = ""
    version: int | None = None
    label: str | None = None
    signature: str = DEFAULT_SIGNATURE


class PredictRequest(NamedTuple):
    inputs: Mapping[str, Array]
    # None for all.
    outputs: tuple[str, ...] | None


def request_spec(message: memoryview) -> ModelSpec:
    """The model that a request is for."""
    specs = _parts(message, _MODEL_SPEC)
    return model_spec(wire.data(specs[-1])) if specs else ModelSpec()


def predict_request(message: memoryview) -> PredictRequest:
    """What the model is to be run with."""
    entries = [wire.entry(value) for value in _parts(message, _INPUTS)]
    outputs = [wire.text(value) for value in _parts(message, _OUTPUT_FILTER)]
    return PredictRequest({name: tensor_proto.array(tensor) for name, tensor in entries}, tuple(outputs) or None)


def request_examples(message: memoryview) -> list[bytes]:
    """The serialized messages of tf.Example of a request to classify, to regress, or for both."""
    inputs = _parts(message, _INPUT)
    return _examples(wire.data(inputs[-1])) if inputs else []


def metadata_fields(message: memoryview) -> list[str]:
    """What a request for metadata asks for."""
    return [wire.text(value) for value in _parts(message, _METADATA_FIELD)]


def model_spec(message: memoryview) -> ModelSpec:
    spec = ModelSpec()
    for field, value in wire.fields(message):
        if field == _NAME:
            spec = spec._replace(name=wire.text(value))
        elif field == _VERSION:
            numbers = _parts(wire.data(value), _VALUE)
            spec = spec._replace(version=wire.signed(numbers[-1]) if numbers else 0, label=None)
        elif field == _VERSION_LABEL:
            spec = spec._replace(version=None, label=wire.text(value))
        elif field == _SIGNATURE_NAME:
            spec = spec._replace(signature=wire.text(value) or DEFAULT_SIGNATURE)
    return spec


def predict_response(spec: ModelSpec, outputs: Mapping[str, Array]) -> bytes:
    entries = [_entry(_OUTPUTS, name, tensor_proto.encoded(array)) for name, array in outputs.items()]
    return b"".join([*entries, bytes_field(_OF_MODEL, _encoded(spec))])


def classification_response(spec: ModelSpec, classes: Iterable[Iterable[tuple[bytes, float]]]) -> bytes:
    """Of the labels and scores of each example."""
    return _result_response(
        spec,
        [
            b"".join(
                [
                    bytes_field(_ITEMS, bytes_field(_LABEL, label) + wire.float_field(_SCORE, score))
                    for label, score in each
                ]
            )
            for each in classes
        ],
    )


def regression_response(spec: ModelSpec, values: Iterable[float]) -> bytes:
    """Of the value of each example."""
    return _result_response(spec, [wire.float_field(_REGRESSED, value) for value in values])


def metadata_response(spec: ModelSpec, signatures: Mapping[str, Signature]) -> bytes:
    """Of the signatures, which is all that is told of a model."""
    described = b"".join([_entry(_SIGNATURE_DEF, name, _described(each)) for name, each in signatures.items()])
    packed = bytes_field(_TYPE_URL, _SIGNATURE_DEF_MAP) + bytes_field(_ANY_VALUE, described)
    return bytes_field(_METADATA_OF, _encoded(spec)) + _entry(_METADATA, SIGNATURE_DEF, packed)


def _parts(message: memoryview, field: int) -> list[wire.Value]:
    """What the message has in that field."""
    return [value for number, value in wire.fields(message) if number == field]


def _examples(message: memoryview) -> list[bytes]:
    """As they are to be fed; two messages of protobuf, one after the other, are both in one."""
    examples: list[bytes] = []
    context = b""
    for kind, value in wire.fields(message):
        if kind not in (_EXAMPLE_LIST, _EXAMPLE_LIST_WITH_CONTEXT):
            continue
        for field, part in wire.fields(wire.data(value)):
            if field == _EXAMPLES:
                examples.append(bytes(wire.data(part)))
            elif field == _CONTEXT:
                context = bytes(wire.data(part))
    return [context + example for example in examples]


def _result_response(spec: ModelSpec, items: list[bytes]) -> bytes:
    result = b"".join([bytes_field(_ITEMS, item) for item in items])
    return bytes_field(_RESULT, result) + bytes_field(_OF_MODEL, _encoded(spec))


def _encoded(spec: ModelSpec) -> bytes:
    message = bytes_field(_NAME, spec.name.encode()) + bytes_field(_SIGNATURE_NAME, spec.signature.encode())
    if spec.version is not None:
        message += bytes_field(_VERSION, varint_field(_VALUE, spec.version))
    return message


def _described(signature: Signature) -> bytes:
    return b"".join(
        [
            *(_entry(_SIGNATURE_INPUTS, name, _tensor_info(info)) for name, info in signature.inputs.items()),
            *(_entry(_SIGNATURE_OUTPUTS, name, _tensor_info(info)) for name, info in signature.outputs.items()),
            bytes_field(_METHOD_NAME, signature.method_name.encode()),
        ]
    )


def _tensor_info(info: TensorInfo) -> bytes:
    shape = bytes_field(_SHAPE, tensor_proto.encoded_shape(info.shape))
    return bytes_field(_TENSOR_NAME, info.name.encode()) + varint_field(_DTYPE, info.dtype) + shape


def _entry(field: int, key: str, value: bytes) -> bytes:
    """Of a map."""
    return bytes_field(field, bytes_field(_KEY, key.encode()) + bytes_field(_ENTRY_VALUE, value))
