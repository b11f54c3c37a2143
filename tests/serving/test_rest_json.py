"""TensorFlow Serving's predict API in JSON: requests into arrays, arrays into answers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from signatures import FLOAT, INT32, STRING, default, signature, tensor
from tf_toolkit.serving.array_text import array_text
from tf_toolkit.serving.errors import ModelRunError, RequestError
from tf_toolkit.serving.expectation import explained
from tf_toolkit.serving.request import error_body
from tf_toolkit.serving.rest_json import PredictRequest, parse_predict, render_predict
from tf_toolkit.serving.signature import NUMPY_TYPES, DataType, Signature

ONE = default({"x": tensor(FLOAT, [-1, 3])})
TWO = default({"x": tensor(FLOAT, [-1, 3]), "name": tensor(STRING)}, {"y": tensor(FLOAT), "z": tensor(STRING)})
EXPECTS_ONE = "; signature 'serving_default' expects x: float [-1,3], for example {\"instances\": [[0.0, 0.0, 0.0]]}"
NUMBERS = {dtype: name for dtype, name in NUMPY_TYPES.items() if not name.startswith(("complex", "object"))}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x", "name", "b64"]) | st.text(max_size=3), inner, max_size=4)
    ),
)
KEYS = st.sampled_from(["instances", "inputs", "signature_name", "output_filter", "examples", "context"])


def request(row_format: bool) -> PredictRequest:
    return PredictRequest("serving_default", signature({}), {}, row_format, None)


def refused(text: str, signatures: dict[str, Signature]) -> RequestError:
    with pytest.raises(RequestError) as error:
        parse_predict(text.encode(), signatures)
    return error.value


def test_rows_of_one_input() -> None:
    found = parse_predict(b'{"instances": [[1, 2.5, NaN], [4, 5, Infinity]]}', ONE)

    assert found.row_format
    assert (found.signature_name, found.signature, found.outputs) == ("serving_default", ONE["serving_default"], None)
    assert found.inputs["x"].dtype == "float32"
    assert repr(found.inputs["x"].tolist()) == "[[1.0, 2.5, nan], [4.0, 5.0, inf]]"


def test_a_shape_that_the_signature_does_not_admit_to_is_for_the_model_to_judge() -> None:
    """The model that everybody starts with says [-1,1], and is asked with [1.0, 2.0, 5.0]."""
    found = parse_predict(b'{"instances": [1.0, 2.0, 5.0]}', default({"x": tensor(FLOAT, [-1, 1])}))

    assert found.inputs["x"].tolist() == [1.0, 2.0, 5.0]


def test_rows_of_several_inputs() -> None:
    found = parse_predict(
        b'{"instances": [{"x": [1, 2, 3], "name": "a"}, {"name": {"b64": "/w=="}, "x": [4, 5, 6]}]}', TWO
    )

    assert found.inputs["x"].tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert found.inputs["name"].tolist() == [b"a", b"\xff"]


def test_columns() -> None:
    found = parse_predict(b'{"inputs": {"x": 1, "name": ["a", "b"], "more": null}, "output_filter": ["z", "z"]}', TWO)

    assert not found.row_format
    assert found.outputs == ("z",)
    assert found.inputs["x"].shape == ()
    assert found.inputs["name"].tolist() == [b"a", b"b"]
    assert parse_predict(b'{"inputs": [[1, 2, 3]]}', ONE).inputs["x"].tolist() == [[1.0, 2.0, 3.0]]
    assert parse_predict(b'{"inputs": {"b64": "AA=="}}', default({"s": tensor(STRING)})).inputs["s"].tolist() == b"\0"


def test_one_input_by_name_and_one_called_b64() -> None:
    signatures = default({"b64": tensor(STRING)})

    assert parse_predict(b'{"instances": [{"x": 1}, {"x": 2}]}', default({"x": tensor(INT32)})).inputs[
        "x"
    ].tolist() == [
        1,
        2,
    ]
    # A value, as ever.
    assert parse_predict(b'{"instances": [{"b64": "AA=="}]}', signatures).inputs["b64"].tolist() == [b"\0"]
    assert parse_predict(b'{"instances": [{"b64": ["AA=="]}]}', signatures).inputs["b64"].tolist() == [[b"AA=="]]
    assert "Expecting object but got list at item 1" in str(
        refused('{"instances": [{"b64": ["AA=="]}, {"b64": "AA=="}]}', signatures)
    )


def test_booleans_are_seen_however_many_numbers_there_are() -> None:
    assert "Value: true Type: True" in refused('{"instances": [[1.0, 2.0, true]]}', ONE).message
    assert "Value: false Type: False" in refused('{"instances": [[1.0, 2.0, false]]}', ONE).message
    flags = default({"x": tensor(DataType.DT_BOOL)})
    assert parse_predict(b'{"instances": [true, false]}', flags).inputs["x"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "JSON Value: [1] Is not object"),
        ("{}", f"Missing 'inputs' or 'instances' key{EXPECTS_ONE}"),
        (
            '{"instances": {}}',
            f"JSON Value: {{\"instances\":{{}}}} Excepting 'instances' to be an list/array{EXPECTS_ONE}",
        ),
        ('{"instances": []}', f"JSON Value: {{\"instances\":[]}} No values in 'instances' array{EXPECTS_ONE}"),
        (
            '{"instances": [1], "inputs": 1}',
            'JSON Value: {"instances":[1],"inputs":1} Not formatted correctly expecting only one of '
            f"'inputs' or 'instances' keys to exist{EXPECTS_ONE}",
        ),
        (
            '{"instances": [1], "signature_name": 5}',
            'JSON Value: {"instances":[1],"signature_name":5} not formatted correctly. '
            "'signature_name' key must be a string value.",
        ),
        (
            '{"instances": [1], "signature_name": "s"}',
            'Serving signature name: "s" not found in signature def, which has: serving_default',
        ),
        (
            '{"instances": [[1, 2, 3], ["a", 1, 1]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            f'JSON Value: "a" Type: String is not of expected type: float{EXPECTS_ONE}',
        ),
        (
            '{"instances": [[1, 2], [3, 4, 5]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            f"Expecting tensor size: 2 but got: 3{EXPECTS_ONE}",
        ),
        (
            '{"instances": [[1, 2], [[3, 4]]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            f"Expecting shape [2] but got: [1,2]{EXPECTS_ONE}",
        ),
        (
            '{"instances": [[1], {"x": [1]}]}',
            f"Expecting value/list but got object at item 1 of input list{EXPECTS_ONE}",
        ),
        ('{"instances": [{"x": [1]}, [1]]}', f"Expecting object but got list at item 1 of input list{EXPECTS_ONE}"),
        (
            '{"instances": [{"x": [1]}, {"x": [1], "q": 1}]}',
            "Failed to process element: 1 key: q of 'instances' list. Error: INVALID_ARGUMENT: "
            f"JSON object: does not have named input: q{EXPECTS_ONE}",
        ),
        ('{"inputs": {"q": 1}}', f"Missing named input: x in 'inputs' object{EXPECTS_ONE}"),
        ('{"inputs": ["a"]}', f'JSON Value: "a" Type: String is not of expected type: float, in input: x{EXPECTS_ONE}'),
        (
            '{"inputs": 1, "output_filter": "y"}',
            "JSON Value: \"y\" of 'output_filter' is not a list of names of outputs",
        ),
        ('{"inputs": 1, "output_filter": ["q"]}', "'output_filter' names no output: q; there are: y"),
    ],
)
def test_messages(text: str, message: str) -> None:
    error = refused(text, ONE)

    assert (error.status, error.message) == (400, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"instances": [[1, 2]]}',
            "instances is a plain list, but expecting list of objects as multiple input tensors",
        ),
        ('{"inputs": [[1, 2]]}', "inputs is a plain value/list, but expecting an object as multiple input tensors"),
        (
            '{"instances": [{"x": [1]}]}',
            "Failed to process element: 0 of 'instances' list. JSON object: {\"x\":[1]} must only have keys: name,x;",
        ),
        (
            '{"instances": [{"x": 1, "name": "a"}, {"x": 1, "name": 5}, {"x": "a", "name": "a"}, {}]}',
            "Failed to process element: 1 key: name of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 5 Type:",
        ),
    ],
)
def test_messages_about_several_inputs(text: str, message: str) -> None:
    error = refused(text, TWO)

    assert error.message.startswith(message)
    assert error.message.endswith(
        "signature 'serving_default' expects x: float [-1,3], name: string [-1], for example "
        '{"instances": [{"x": [0.0, 0.0, 0.0], "name": "text"}]}'
    )


def test_types_that_json_has_nothing_for() -> None:
    signatures = default({"x": tensor(DataType.DT_BFLOAT16, None)})

    assert refused('{"inputs": 1}', signatures).status == 501
    rows = refused('{"instances": [1]}', signatures)
    assert rows.status == 400
    assert "Error: UNIMPLEMENTED: Conversion of JSON Value: 1 to type: bfloat16" in rows.message


@pytest.mark.parametrize(
    ("inputs", "example"),
    [
        ({"image": tensor(FLOAT, [-1, 224, 224, 3])}, None),
        ({"x": tensor(INT32, [])}, '{"inputs": 0}'),
        ({"x": tensor(DataType.DT_BOOL, None)}, '{"instances": [false]}'),
        ({"image_bytes": tensor(STRING)}, '{"instances": [{"b64": "dGV4dA=="}]}'),
        ({"x": tensor(INT32, [-1, -1]), "n": tensor(INT32, [])}, '{"inputs": {"x": [[0]], "n": 0}}'),
    ],
)
def test_the_example_of_a_message_is_a_request(inputs: dict[str, Any], example: str | None) -> None:
    message = refused("{}", default(inputs)).message.partition(", for example ")[2]

    if example is None:
        assert message == (
            '{"instances": [[[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], ...], '
            "[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], ...], "
            "[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], ...], ...]]}"
        )
    else:
        assert message == example
        parse_predict(message.encode(), default(inputs))


def test_many_inputs_are_not_all_listed() -> None:
    message = refused("{}", default({f"x{number}": tensor(INT32) for number in range(100)})).message

    assert "x7: int32 [-1] and 92 more, for example " in message
    assert message.endswith('"x7": 0, ...}]}')


def test_a_refusal_of_the_model_names_the_shapes() -> None:
    refusal = ModelRunError("INVALID_ARGUMENT", "Matrix size-incompatible")
    inputs = {"x": np.zeros((2, 4), "float32")}

    error = explained(refusal, "serving_default", ONE["serving_default"], inputs)
    assert (error.status, error.message) == (400, f"Matrix size-incompatible; x is [2,4], but{EXPECTS_ONE[1:]}")
    fitting = {"x": np.zeros((2, 3), "float32")}
    assert explained(refusal, "serving_default", ONE["serving_default"], fitting) is refusal
    crash = ModelRunError("INTERNAL", "gone")
    assert explained(crash, "serving_default", ONE["serving_default"], inputs) is crash


@pytest.mark.parametrize(
    ("outputs", "rows", "columns"),
    [
        ({"y": np.array([[1, 0.1], [1e-7, 3e38]], "float32")}, "[[1.0,0.1],[1e-7,3e+38]]", None),
        ({"y": np.array([1.5, np.nan, np.inf, -np.inf])}, "[1.5,NaN,Infinity,-Infinity]", None),
        ({"y": np.array([1, -1], "int64")}, "[1,-1]", None),
        ({"y": np.array([True, False])}, "[true,false]", None),
        ({"y": np.zeros((0, 2), "float32")}, "[]", None),
        ({"y": np.array([b"a", b"\xff", "é".encode()], object)}, '["a",{"b64":"/w=="},"é"]', None),
        ({"y_bytes": np.array([[b"a"]], object)}, '[[{"b64":"YQ=="}]]', None),
        (
            {
                "y": np.array([[1], [2]], "int32"),
                "z": np.array([np.nan, 1], "float32"),
                "s": np.array([b"null", b"b"], object),
            },
            '[{"y":[1],"z":NaN,"s":"null"},{"y":[2],"z":1.0,"s":"b"}]',
            '{"y":[[1],[2]],"z":[NaN,1.0],"s":["null","b"]}',
        ),
        (
            {"y": np.array([[1.0, np.inf], [2.0, 0.0]]).T, "s_bytes": np.array([b"a", b"b"], object)},
            '[{"y":[1.0,2.0],"s_bytes":{"b64":"YQ=="}},{"y":[Infinity,0.0],"s_bytes":{"b64":"Yg=="}}]',
            '{"y":[[1.0,2.0],[Infinity,0.0]],"s_bytes":[{"b64":"YQ=="},{"b64":"Yg=="}]}',
        ),
    ],
)
def test_answers(outputs: dict[str, Any], rows: str, columns: str | None) -> None:
    assert render_predict(request(True), outputs).decode() == f'{{"predictions":{rows}}}'
    assert render_predict(request(False), outputs).decode() == f'{{"outputs":{columns or rows}}}'


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_largest_floats_are_read_as_they_are_written(dtype: str) -> None:
    largest = np.array([np.finfo(dtype).max, np.finfo(dtype).min], dtype)
    signatures = default({"x": tensor(next(key for key, name in NUMPY_TYPES.items() if name == dtype))})

    text = render_predict(request(True), {"y": largest})
    assert (
        parse_predict(text.replace(b"predictions", b"instances"), signatures).inputs["x"].tolist() == largest.tolist()
    )


def test_scalars_are_columns_only() -> None:
    outputs = {"y": np.float32(0.1) + np.zeros((), "float32"), "s": np.array(b"a", object), "n": np.array(np.nan)}

    assert render_predict(request(False), outputs) == b'{"outputs":{"y":0.1,"s":"a","n":NaN}}'
    with pytest.raises(
        RequestError, match=r"^Tensor name: y has no shape information .*'inputs' in place of 'instances'"
    ):
        render_predict(request(True), outputs)


def test_rows_need_one_length() -> None:
    outputs = {"y": np.zeros((2, 3)), "z": np.zeros(3)}

    with pytest.raises(RequestError, match=r"z has inconsistent batch size: 3 expecting: 2; the outputs are y \[2,3\]"):
        render_predict(request(True), outputs)


@pytest.mark.parametrize("shape", [(2_500_001,), (2_500_001, 1), (3, 1, 1_000_001), (0, 7), (2, 0)])
def test_large_arrays(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    for turned in (array, array[::-1]):
        whole = orjson.dumps(np.ascontiguousarray(turned), option=orjson.OPT_SERIALIZE_NUMPY)
        assert array_text("y", turned) == whole


@pytest.mark.parametrize("row_format", [True, False])
def test_types_that_cannot_be_written(row_format: bool) -> None:
    for outputs in ({"y": np.zeros(1, "complex64")}, {"y": np.zeros(1, "complex64"), "z": np.zeros(1)}):
        with pytest.raises(RequestError, match=r"^Failed to write JSON value for tensor type: complex64"):
            render_predict(request(row_format), outputs)
    with pytest.raises(RequestError, match="empty tensor map"):
        render_predict(request(row_format), {})


@given(st.data())
def test_what_is_written_is_read_as_the_same(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(sorted(NUMBERS)))
    shape = data.draw(arrays.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=4))
    array = data.draw(arrays.arrays(NUMBERS[dtype], shape))

    text = render_predict(request(False), {"y": array})
    found = parse_predict(b'{"inputs":%s' % text.partition(b":")[2], default({"x": tensor(dtype, None)})).inputs["x"]

    assert found.dtype == array.dtype
    # An empty list says nothing of the dimensions inside it.
    assert found.shape == array.shape or not array.size
    assert np.where(array == array, array, 0).tobytes() == np.where(found == found, found, 0).tobytes()


@given(
    arrays.arrays(object, arrays.array_shapes(min_dims=0), elements=st.binary(max_size=4)),
    st.sampled_from(["s", "s_bytes"]),
)
def test_strings_that_are_written_are_read_as_the_same(array: Any, name: str) -> None:
    text = render_predict(request(False), {name: array})
    found = parse_predict(b'{"inputs":%s' % text.partition(b":")[2], default({"x": tensor(STRING, None)})).inputs["x"]

    assert found.tolist() == array.tolist()


@given(
    arrays.arrays("float32", arrays.array_shapes(max_dims=2)), arrays.arrays("float64", arrays.array_shapes(max_dims=2))
)
def test_rows_are_what_the_columns_are(y: Any, z: Any) -> None:
    size = min(len(y), len(z))
    outputs = {"y": y[:size], "z": z[:size], "s": np.array([b"NaN"] * size, object)}

    rows = json.loads(render_predict(request(True), outputs))["predictions"]
    columns = json.loads(render_predict(request(False), outputs))["outputs"]
    assert repr(rows) == repr([dict(zip(columns, values)) for values in zip(*columns.values())])


@given(st.dictionaries(KEYS, VALUES), st.sampled_from([ONE, TWO, default({"b64": tensor(STRING)})]))
def test_any_document_is_a_request_or_an_error(document: dict[str, Any], signatures: dict[str, Signature]) -> None:
    try:
        found = parse_predict(json.dumps(document).encode(), signatures)
    except RequestError as error:
        assert error.status == 400
        assert "\n" not in error.message
        assert json.loads(error_body(error.message)) == {"error": error.message}
    else:
        assert found.inputs.keys() == found.signature.inputs.keys()


@given(st.binary())
def test_any_bytes_are_an_error(body: bytes) -> None:
    with pytest.raises(RequestError):
        parse_predict(body, ONE)


def test_an_error_with_characters_that_are_none() -> None:
    assert error_body('no "model" \udc80') == b'{"error":"no \\"model\\" ?"}'
