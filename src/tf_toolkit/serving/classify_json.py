"""Classify and regress requests of TensorFlow Serving's REST API: ``examples`` into inputs, outputs into ``results``.

A signature of the method takes serialized ``tf.Example`` messages. Models that Keras exports have signatures for
predict only; they are served as well, where their shapes fit:

* The features are the inputs, where they have the inputs' names. A feature is shaped as its input is, as it is when a
  ``tf.Example`` is parsed. Else a single input of strings takes the ``tf.Example`` messages.
* Outputs called ``classes`` and ``scores``, or the single output, are the result of classify. ``outputs``, or the
  single output, is the result of regress.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson

from tf_toolkit.serving.array_text import array_text, rows, text_or_base64
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import RequestError, invalid
from tf_toolkit.serving.examples import encode, features
from tf_toolkit.serving.expectation import fits, tensors
from tf_toolkit.serving.json_arrays import FLOATS
from tf_toolkit.serving.json_faults import type_name
from tf_toolkit.serving.json_text import shown
from tf_toolkit.serving.rest_json import parse_object, requested_signature, row_inputs
from tf_toolkit.serving.signature import CLASSIFY, PREDICT, REGRESS, DataType, Signature, shape_text

_CONTEXT_KEY = "context"
_EXAMPLES_KEY = "examples"
_METHODS = {"classify": ("classification", CLASSIFY), "regress": ("regression", REGRESS)}
# The outputs' names.
_CLASSES = ("classes", "scores")
_REGRESSION = "outputs"
_EXPECTED = 'expected is {"examples": [{FEATURE: VALUE OR LIST, ...}, ...]}'


class ExamplesRequest(NamedTuple):
    """What a model is to be run with, and which of its outputs are the result."""

    signature_name: str
    signature: Signature
    inputs: dict[str, Array]
    # How many examples.
    size: int
    # The output that is the classes' labels, and the one that is their scores, or the regression's values.
    labels: str | None
    scores: str | None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that are needed."""
        return tuple(name for name in (self.labels, self.scores) if name is not None)


def parse_examples(body: bytes, signatures: Mapping[str, Signature], method: str) -> ExamplesRequest:
    """The request of a body, for the method "classify" or "regress". Raises RequestError."""
    document = parse_object(body)
    name = requested_signature(document)
    signature = _signature(name, signatures, method)
    labels, scores = _results(name, signature, method)
    examples = _examples(document)
    context = document.get(_CONTEXT_KEY, {})
    inputs = _inputs(examples, context, signature)
    return ExamplesRequest(name, signature, inputs, len(examples), labels, scores)


def of_messages(messages: list[bytes], name: str, signatures: Mapping[str, Signature], method: str) -> ExamplesRequest:
    """The request of serialized ``tf.Example`` messages, for a signature that takes them. Raises RequestError."""
    signature = _signature(name, signatures, method)
    labels, scores = _results(name, signature, method)
    if not messages:
        raise invalid("Input is empty")
    if not takes_messages(signature):
        raise invalid(f"signature '{name}' takes {tensors(signature.inputs)}, and no tf.Example: call Predict for it")
    inputs = dict.fromkeys(signature.inputs, np.array(messages, object))
    return ExamplesRequest(name, signature, inputs, len(messages), labels, scores)


def answers(name: str, signature: Signature, method: str) -> bool:
    """Whether a signature has what the method needs, as far as its types and shapes tell."""
    try:
        results = _results(name, _signature(name, {name: signature}, method), method)
    except RequestError:
        return False
    shapes = [signature.outputs[output].shape for output in results if output is not None]
    return (takes_features(signature) or takes_messages(signature)) and all(
        shape is None or (len(shape) == 2 if method == "classify" else len(shape) == 1 or shape[1:] == (1,))
        for shape in shapes
    )


def takes_features(signature: Signature) -> bool:
    """Whether its inputs are features."""
    shapes = [info.shape for info in signature.inputs.values()]
    return signature.method_name == PREDICT and bool(shapes) and all(shape is None or shape for shape in shapes)


def takes_messages(signature: Signature) -> bool:
    """Whether its input is for ``tf.Example`` messages."""
    return [info.dtype for info in signature.inputs.values()] == [DataType.DT_STRING]


def render_classify(request: ExamplesRequest, outputs: Mapping[str, Array]) -> bytes:
    """The body of the answer: a list of labels with their scores for each example. Raises RequestError."""
    count = class_count(request, outputs)
    labels: list[Any] = [""] * (request.size * count)
    scores: list[Any] = [0.0] * (request.size * count)
    if request.labels is not None:
        labels = [text_or_base64(label) for label in outputs[request.labels].ravel().tolist()]
    if request.scores is not None:
        scores = rows(request.scores, outputs[request.scores].reshape(-1))
    pairs = list(zip(labels, scores))
    results = [pairs[index * count : (index + 1) * count] for index in range(request.size)]
    return orjson.dumps({"results": results}, option=orjson.OPT_SERIALIZE_NUMPY)


def class_count(request: ExamplesRequest, outputs: Mapping[str, Array]) -> int:
    """How many classes each example has. Raises RequestError where the outputs are not for each example as many."""
    classes = [(what, outputs[name]) for what, name in zip(_CLASSES, (request.labels, request.scores)) if name]
    for what, array in classes:
        if array.ndim != 2:
            raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {shape_text(array.shape)}")
        if len(array) != request.size:
            raise invalid(f"Expected {what} output batch size of {request.size}. Got: {len(array)}")
    count: int = classes[0][1].shape[1]
    if classes[-1][1].shape[1] != count:
        raise invalid(f"Tensors class and score should match in dim_size(1). Got {count} vs. {classes[-1][1].shape[1]}")
    return count


def render_regress(request: ExamplesRequest, outputs: Mapping[str, Array]) -> bytes:
    """The body of the answer: a number for each example. Raises RequestError."""
    (name,) = outputs
    return b'{"results":%s}' % array_text(name, regressed(request, outputs))


def regressed(request: ExamplesRequest, outputs: Mapping[str, Array]) -> Array:
    """A number for each example. Raises RequestError."""
    ((name, values),) = outputs.items()
    if values.ndim != 1 and values.shape[1:] != (1,):
        raise invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{shape_text(values.shape)}, of output: {name}"
        )
    if len(values) != request.size:
        raise invalid(f"Input batch size did not match output batch size: {request.size} vs. {len(values)}")
    return values.reshape(-1)


def _signature(name: str, signatures: Mapping[str, Signature], method: str) -> Signature:
    kind, method_name = _METHODS[method]
    signature = signatures.get(name)
    if signature is None:
        found = ", ".join(sorted(signatures)) or "none"
        raise invalid(f"No signature was found with the name: {name}; there are: {found}")
    if signature.method_name not in (method_name, PREDICT):
        raise invalid(
            f"Expected {kind} signature method_name to be {method_name}. Was: {signature.method_name}, in signature: "
            f"{name}"
        )
    return signature


def _results(name: str, signature: Signature, method: str) -> tuple[str | None, str | None]:
    """The names of the outputs that are labels and scores."""
    outputs = signature.outputs
    roles = _CLASSES if method == "classify" else ("", _REGRESSION)
    labels, scores = (role if role in outputs else None for role in roles)
    if labels is None and scores is None and len(outputs) == 1:
        (only,) = outputs
        is_text = method == "classify" and outputs[only].dtype is DataType.DT_STRING
        labels, scores = (only, None) if is_text else (None, only)
    if labels is None and scores is None:
        wanted = " or ".join(f'"{role}"' for role in roles if role)
        raise invalid(
            f"Expected {_METHODS[method][0]} signature outputs to contain at least one of {wanted}, or a single "
            f"output; signature '{name}' has: {', '.join(sorted(outputs)) or 'none'}"
        )
    if labels is not None and outputs[labels].dtype is not DataType.DT_STRING:
        raise invalid(f"Expected {labels} Tensor of DT_STRING. Got: {outputs[labels].dtype.name}")
    if scores is not None and outputs[scores].dtype not in FLOATS:
        raise invalid(f"Expected {scores} Tensor of DT_FLOAT. Got: {outputs[scores].dtype.name}")
    return labels, scores


def _examples(document: dict[str, Any]) -> list[Any]:
    if _EXAMPLES_KEY not in document:
        raise invalid(
            f"JSON Value: {shown(document)} When method is classify, key 'examples' is expected and was not found; "
            f"{_EXPECTED}"
        )
    examples = document[_EXAMPLES_KEY]
    if type(examples) is not list:
        raise invalid(f"JSON Value: {shown(document)} Expecting 'examples' value to be an list/array; {_EXPECTED}")
    if not examples:
        raise invalid(f"JSON Value: {shown(document)} 'examples' value is an empty array; {_EXPECTED}")
    return examples


def _inputs(examples: list[Any], context: Any, signature: Signature) -> dict[str, Array]:
    # What an example says itself goes before the context. All of it is checked as features, whatever becomes of it.
    shared = features(context)
    complete = [{**shared, **features(example)} for example in examples]
    inputs = signature.inputs
    if signature.method_name == PREDICT and all(example.keys() == inputs.keys() for example in complete):
        columns = row_inputs([{**context, **example} for example in examples], signature, key=_EXAMPLES_KEY)
        return {name: _shaped(column, inputs[name].shape) for name, column in columns.items()}
    if not takes_messages(signature):
        listed = ", ".join(f"{name}: {type_name(info.dtype)}" for name, info in inputs.items())
        raise invalid(f"Every example must have exactly the features that are the inputs, {listed}; {_EXPECTED}")
    return dict.fromkeys(inputs, np.array([encode(example) for example in complete], object))


def _shaped(column: Array, known: tuple[int, ...] | None) -> Array:
    """A feature as its input is shaped, if it can be: a feature is a list, and a single value a list of one."""
    if known is None or fits(column.shape, known):
        return column
    try:
        return column.reshape(len(column), *known[1:])
    except ValueError:
        return column
