"""TensorFlow Serving's classify and regress APIs in JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from signatures import FLOAT, INT32, STRING, default, signature, tensor
from tf_toolkit.serving.classify_json import parse_examples, render_classify, render_regress
from tf_toolkit.serving.errors import RequestError
from tf_toolkit.serving.examples import encode, features
from tf_toolkit.serving.signature import CLASSIFY, REGRESS, DataType, Signature

EXAMPLES = {"inputs": tensor(STRING)}
CLASSES = {"classes": tensor(STRING, [-1, -1]), "scores": tensor(FLOAT, [-1, -1])}
SIGNATURES = {
    "classify": Signature(EXAMPLES, CLASSES, CLASSIFY),
    "regress": Signature(EXAMPLES, {"outputs": tensor(FLOAT)}, REGRESS),
}
FLOAT32 = st.floats(width=32)
BYTES = st.binary(max_size=4)
FEATURES = st.dictionaries(
    st.text(max_size=3),
    st.one_of(
        st.lists(st.integers(-(1 << 63), (1 << 63) - 1) | st.booleans()),
        st.lists(FLOAT32),
        st.lists(st.text(max_size=3)),
    ),
)


def body(method: str, **document: Any) -> bytes:
    return json.dumps({"signature_name": method, **document}).encode()


def parsed(message: bytes) -> dict[str, list[Any]]:
    found = {}
    for name, feature in tf.train.Example.FromString(message).features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found


def as_tensorflow_has_it(example: dict[str, list[Any]]) -> Any:
    message = tf.train.Example(features=tf.train.Features())
    for name, values in example.items():
        feature = message.features.feature[name]
        if values and isinstance(values[0], str):
            feature.bytes_list.value.extend(value.encode() for value in values)
        elif values:
            kind = feature.float_list if isinstance(values[0], float) else feature.int64_list
            kind.value.extend(value * 1 for value in values)
    return message


@given(FEATURES)
def test_tensorflow_reads_the_examples(example: dict[str, list[Any]]) -> None:
    found = tf.train.Example.FromString(encode(features(example)))

    assert found.SerializeToString(deterministic=True) == as_tensorflow_has_it(example).SerializeToString(
        deterministic=True
    )


def test_examples_with_a_context() -> None:
    found = parse_examples(
        body(
            "classify",
            context={"query": "pizza", "n": 1},
            examples=[
                {"n": [2, True], "r": 0.5},
                {"b": ["a", {"b64": "/w=="}], "f": [float("nan"), float("-inf")], "e": []},
            ],
        ),
        SIGNATURES,
        "classify",
    )

    assert (found.size, found.labels, found.scores, found.outputs) == (2, "classes", "scores", ("classes", "scores"))
    first, second = map(parsed, found.inputs["inputs"].tolist())
    assert first == {"query": [b"pizza"], "n": [2, 1], "r": [0.5]}
    assert repr(second.pop("f")) == "[nan, -inf]"
    assert second == {"query": [b"pizza"], "n": [1], "b": [b"a", b"\xff"], "e": []}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": {}}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{}], "context": []}, "Example must be JSON object but got JSON Array"),
        ({"examples": [{"a": [1, None]}]}, "Feature: a has element with unexpected JSON type: Null"),
        ({"examples": [{"a": [[1]]}]}, "Feature: a has element with unexpected JSON type: Array"),
        ({"examples": [{"a": {"b": 1}}]}, "Feature: a has element with unexpected JSON type: Object"),
        ({"examples": [{"a": {"b64": "?"}}]}, "Unable to base64 decode"),
        ({"examples": [{"a": [1, 1.0]}]}, "Unexpected element type in feature: a expecting type: int64"),
        ({"examples": [{"a": ["b", True]}]}, "Unexpected element type in feature: a expecting type: bytes"),
        ({"examples": [{"a": 1 << 63}]}, "Feature: a has uint64 element. Only int64 is supported."),
        ({"examples": [{"a": 3.5e38}]}, "Cannot convert JSON value: 3.5e+38 to float without loss of precision"),
        (
            {"examples": [{}], "signature_name": "q"},
            "No signature was found with the name: q; there are: classify, regress",
        ),
        ({"examples": [{}], "signature_name": 1}, "'signature_name' key must be a string value."),
        (
            {"examples": [{}], "signature_name": "regress"},
            "Expected classification signature method_name to be tensorflow/serving/classify. "
            "Was: tensorflow/serving/regress",
        ),
    ],
)
def test_messages(document: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_examples(body("classify", **document), SIGNATURES, "classify")

    assert refused.value.status == 400
    assert message in refused.value.message


def test_features_that_are_the_inputs_of_a_predict_signature() -> None:
    signatures = default(
        {"x": tensor(FLOAT, [-1, 2, 2]), "n": tensor(INT32, [-1, 1]), "s": tensor(STRING)},
        {"p": tensor(FLOAT, [-1, 3])},
    )

    found = parse_examples(
        json.dumps({"context": {"s": "a"}, "examples": [{"x": [1, 2, 3, 4], "n": 5}]}).encode(), signatures, "classify"
    )

    assert (found.labels, found.scores) == (None, "p")
    assert found.inputs["x"].tolist() == [[[1.0, 2.0], [3.0, 4.0]]]
    assert found.inputs["n"].tolist() == [[5]]
    assert found.inputs["s"].tolist() == [b"a"]


def test_a_feature_of_another_type_than_the_input() -> None:
    with pytest.raises(RequestError) as refused:
        parse_examples(b'{"examples": [{"x": 1.0}, {"x": "b"}]}', default({"x": tensor(FLOAT)}), "regress")

    assert refused.value.message.startswith("Failed to process element: 1 key: x of 'examples' list. Error: INVALID")


def test_examples_for_a_predict_signature() -> None:
    signatures = default({"examples": tensor(STRING)}, {"label": tensor(STRING, [-1, 1])})

    found = parse_examples(b'{"examples": [{"x": 1}]}', signatures, "classify")

    assert (found.labels, found.scores) == ("label", None)
    assert parsed(found.inputs["examples"][0]) == {"x": [1]}


@pytest.mark.parametrize(
    ("inputs", "outputs", "method", "message"),
    [
        ({"x": tensor(FLOAT)}, {"y": tensor(FLOAT)}, "regress", "features that are the inputs, x: float;"),
        (
            EXAMPLES,
            {"a": tensor(FLOAT), "b": tensor(FLOAT)},
            "regress",
            'at least one of "outputs", or a single output',
        ),
        (EXAMPLES, {"a": tensor(FLOAT), "b": tensor(FLOAT)}, "classify", 'at least one of "classes" or "scores"'),
        (EXAMPLES, {"y": tensor(STRING)}, "regress", "Expected y Tensor of DT_FLOAT. Got: DT_STRING"),
        (EXAMPLES, {"classes": tensor(INT32)}, "classify", "Expected classes Tensor of DT_STRING. Got: DT_INT32"),
    ],
)
def test_signatures_that_do_not_fit(inputs: Any, outputs: Any, method: str, message: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_examples(b'{"examples": [{"q": 1}]}', {"serving_default": signature(inputs, outputs)}, method)

    assert message in refused.value.message


def test_results_of_classify() -> None:
    found = parse_examples(body("classify", examples=[{}, {}]), SIGNATURES, "classify")
    classes = np.array([[b"car", b"\xff"], [b"bus", b""]], object)
    scores = np.array([[0.1, 1.0], [np.nan, -np.inf]], "float32")

    assert render_classify(found, {"classes": classes, "scores": scores}).decode() == (
        '{"results":[[["car",0.1],[{"b64":"/w=="},1.0]],[["bus",NaN],["",-Infinity]]]}'
    )
    only_scores, only_classes = found._replace(labels=None), found._replace(scores=None)
    assert render_classify(only_scores, {"scores": scores[:, :1]}) == b'{"results":[[["",0.1]],[["",NaN]]]}'
    assert render_classify(only_classes, {"classes": classes[:, :1]}) == b'{"results":[[["car",0.0]],[["bus",0.0]]]}'


@pytest.mark.parametrize(
    ("classes", "scores", "message"),
    [
        ((1,), (1, 1), "Expected Tensor shape: [batch_size num_classes] but got [1]"),
        ((1, 1), (1, 1, 1), "Expected Tensor shape: [batch_size num_classes] but got [1,1,1]"),
        ((2, 1), (1, 1), "Expected classes output batch size of 1. Got: 2"),
        ((1, 1), (2, 1), "Expected scores output batch size of 1. Got: 2"),
        ((1, 1), (1, 2), "Tensors class and score should match in dim_size(1). Got 1 vs. 2"),
    ],
)
def test_shapes_that_are_no_classes(classes: tuple[int, ...], scores: tuple[int, ...], message: str) -> None:
    found = parse_examples(body("classify", examples=[{}]), SIGNATURES, "classify")

    with pytest.raises(RequestError) as refused:
        render_classify(found, {"classes": np.full(classes, b"", object), "scores": np.zeros(scores, "float32")})
    assert (refused.value.status, refused.value.message) == (400, message)


def test_results_of_regress() -> None:
    found = parse_examples(body("regress", examples=[{}, {}]), SIGNATURES, "regress")

    assert found.outputs == ("outputs",)
    for values in (np.array([0.1, np.inf], "float32"), np.array([[0.1], [np.inf]], "float32")):
        assert render_regress(found, {"outputs": values}) == b'{"results":[0.1,Infinity]}'
    for shape, message in [
        ((), "shape to be either [batch_size] or [batch_size, 1] but got [], of output: outputs"),
        ((2, 2), "shape to be either [batch_size] or [batch_size, 1] but got [2,2], of output: outputs"),
        ((3,), "Input batch size did not match output batch size: 2 vs. 3"),
    ]:
        with pytest.raises(RequestError) as refused:
            render_regress(found, {"outputs": np.zeros(shape, "float32")})
        assert refused.value.message.endswith(message)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "b64", "q"]), inner, max_size=3),
)


@given(
    st.dictionaries(st.sampled_from(["examples", "context", "signature_name"]), VALUES),
    st.sampled_from(
        [
            {"serving_default": SIGNATURES["classify"]},
            default({"x": tensor(FLOAT, [-1, 2])}),
            default({"b64": tensor(STRING)}),
            default({"x": tensor(DataType.DT_VARIANT, [])}),
        ]
    ),
)
def test_any_document_is_a_request_or_an_error(document: dict[str, Any], signatures: dict[str, Signature]) -> None:
    try:
        found = parse_examples(json.dumps(document).encode(), signatures, "classify")
    except RequestError as error:
        assert error.status == 400
    else:
        assert {len(array) for array in found.inputs.values()} == {len(document["examples"])}
