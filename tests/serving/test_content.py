"""/invocations: bodies of every content type into predict requests."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_toolkit.serving.content import json_body, parse_invocation
from tf_toolkit.serving.errors import RequestError
from tf_toolkit.serving.rest_json import PredictRequest
from tf_toolkit.serving.signature import DEFAULT_SIGNATURE, PREDICT, DataType, Signature, TensorInfo

JSON = "application/json"
JSON_LINES = "application/jsonlines"
CSV = "text/csv"
NPY = "application/x-npy"


def model(**inputs: tuple[DataType, tuple[int, ...] | None]) -> dict[str, Signature]:
    infos = {name: TensorInfo(f"{name}:0", dtype, shape) for name, (dtype, shape) in inputs.items()}
    y = TensorInfo("y:0", DataType.DT_FLOAT, None)
    return {DEFAULT_SIGNATURE: Signature(infos, {"y": y, "z": y}, PREDICT)}


# Its signature says [-1,1], and it takes any shape.
HALF_PLUS_THREE = model(x=(DataType.DT_FLOAT, (-1, 1)))
KERAS = {
    DEFAULT_SIGNATURE: Signature({"x": TensorInfo("serving_default_x:0", DataType.DT_FLOAT, (-1, 1))}, {}, PREDICT)
}
SEQUENCES = model(x=(DataType.DT_FLOAT, (-1, -1)))
SCALARS = model(x=(DataType.DT_FLOAT, (-1,)))
UNKNOWN = model(x=(DataType.DT_FLOAT, None))
TEXTS = model(x=(DataType.DT_STRING, (-1,)))
TEXT_ROWS = model(x=(DataType.DT_STRING, (-1, 2)))
TWO = model(a=(DataType.DT_FLOAT, (-1,)), b=(DataType.DT_STRING, (-1,)))
# Models whose inputs have the names of the API's keys.
INPUTS = model(inputs=(DataType.DT_FLOAT, (-1, 2)))
INPUTS_AND_MASK = model(inputs=(DataType.DT_FLOAT, (-1, 2)), mask=(DataType.DT_BOOL, (-1,)))
INSTANCES = model(instances=(DataType.DT_FLOAT, (-1, 2)))
EXAMPLES = model(examples=(DataType.DT_STRING, (-1,)))


def request(body: str | bytes, content_type: str | None, signatures: dict[str, Signature]) -> PredictRequest:
    return parse_invocation(body if isinstance(body, bytes) else body.encode(), content_type, signatures)


def inputs(body: str | bytes, content_type: str | None, signatures: dict[str, Signature]) -> dict[str, Any]:
    parsed = request(body, content_type, signatures)
    assert parsed.row_format
    return {name: array.tolist() for name, array in parsed.inputs.items()}


def refusal(body: str | bytes, content_type: str | None, signatures: dict[str, Signature]) -> str:
    with pytest.raises(RequestError) as caught:
        request(body, content_type, signatures)
    assert caught.value.status == 400
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("content_type", [None, " ", JSON, "Application/JSON; charset=UTF-8"])
@pytest.mark.parametrize(
    ("body", "signatures", "values"),
    [
        # The listings of the SDK's documentation.
        ('{"instances": [1.0, 2.0, 5.0]}', HALF_PLUS_THREE, [1, 2, 5]),
        ('{"instances": [[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]}', HALF_PLUS_THREE, [[1, 2, 5], [1, 2, 5]]),
        ("[[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]", HALF_PLUS_THREE, [[1, 2, 5], [1, 2, 5]]),
        ('{"x": [1.0, 2.0, 5.0]}', HALF_PLUS_THREE, [[1, 2, 5]]),
        # The documented rule: a value, an object, a plain list are one instance; lists of lists are many.
        ("[1.0, 2.0, 5.0]", HALF_PLUS_THREE, [[1, 2, 5]]),
        ("[1.0, 2.0, 5.0]", UNKNOWN, [[1, 2, 5]]),
        ("1.0", HALF_PLUS_THREE, [1]),
        ('"abc"', TEXTS, [b"abc"]),
        ('{"b64": "YWJj"}', TEXTS, [b"abc"]),
        ('{"x": {"b64": "YWJj"}}', TEXTS, [b"abc"]),
        (" \n [ [ [1], [2] ] ]", UNKNOWN, [[[1], [2]]]),
        ('[{"x": 1}, {"x": 2}]', SCALARS, [1, 2]),
        # A model that takes no lists gets the list's values.
        ("[1.0, 2.0, 5.0]", SCALARS, [1, 2, 5]),
        ('["a", {"b64": "Yg=="}]', TEXTS, [b"a", b"b"]),
        ('["a", {"b64": "Yg=="}]', TEXT_ROWS, [[b"a", b"b"]]),
        # Keys and brackets inside of text.
        ('"}\\n[ \\"instances\\": 1"', TEXTS, [b'}\n[ "instances": 1']),
        ('{"x": "]["}', TEXTS, [b"]["]),
        # JSON lines under JSON's name.
        ("[1.0, 2.0]\n[5.0, 6.0]", HALF_PLUS_THREE, [[1, 2], [5, 6]]),
        ('{"x": 1}\r\n\r\n{"x": 2}\r\n', SCALARS, [1, 2]),
        ("1\n2", SCALARS, [1, 2]),
        ("NaN\n-Infinity\n1", SCALARS, [pytest.approx(float("nan"), nan_ok=True), float("-inf"), 1]),
    ],
)
def test_json(content_type: str | None, body: str, signatures: dict[str, Signature], values: list[Any]) -> None:
    assert inputs(body, content_type, signatures) == {"x": values}


@pytest.mark.parametrize("content_type", [JSON_LINES, "application/jsons", "APPLICATION/JSONLINES; x=y"])
@pytest.mark.parametrize(
    ("body", "signatures", "values"),
    [
        ('{"x": [1.0, 2.0, 5.0]}\n' * 3, HALF_PLUS_THREE, [[1, 2, 5]] * 3),
        ("[1.0, 2.0, 5.0]\n[1.0, 2.0, 5.0]", HALF_PLUS_THREE, [[1, 2, 5]] * 2),
        ("[1.0, 2.0, 5.0]", HALF_PLUS_THREE, [[1, 2, 5]]),
        ("\ufeff1.0\r\n \r\n\n2.0\n", SCALARS, [1, 2]),
        # A line is one record, whatever it would be as a document.
        ("[[1.0], [2.0]]", UNKNOWN, [[[1], [2]]]),
        ('"a"\n{"b64": "Yg=="}', TEXTS, [b"a", b"b"]),
        # Requests, one after the other.
        ('{"instances": [1, 2]}\n{"instances": [5]}', SCALARS, [1, 2, 5]),
        ('{"instances": [1, 2]}', SCALARS, [1, 2]),
    ],
)
def test_json_lines(content_type: str, body: str, signatures: dict[str, Signature], values: list[Any]) -> None:
    assert inputs(body, content_type, signatures) == {"x": values}


@pytest.mark.parametrize(
    ("body", "signatures", "values"),
    [
        ("1.0,2.0,5.0\n1.0,2.0,5.0\n1.0,2.0,5.0", HALF_PLUS_THREE, [[1, 2, 5]] * 3),
        ("1.0,2.0,5.0", HALF_PLUS_THREE, [[1, 2, 5]]),
        ("1.0,2.0,5.0", SCALARS, [[1, 2, 5]]),
        # One column: a row of one value where the model takes rows, and else the value.
        ("1.0\n2.0\n5.0\n", HALF_PLUS_THREE, [[1], [2], [5]]),
        ("1.0\n2.0\n5.0\n", SCALARS, [1, 2, 5]),
        ("1.0\n2.0\n5.0\n", UNKNOWN, [1, 2, 5]),
        ("1.0\n2.0\n5.0\n", KERAS, [[1], [2], [5]]),
        ("1.0\n2.0\n5.0\n", SEQUENCES, [[1], [2], [5]]),
        ("a\nb\n", TEXTS, [b"a", b"b"]),
        ('1,"a,b"\n', TEXT_ROWS, [[b"1", b"a,b"]]),
        ('"{""x"": 1}"', TEXTS, [b'{"x": 1}']),
    ],
)
def test_csv(body: str, signatures: dict[str, Signature], values: list[Any]) -> None:
    assert inputs(body, CSV, signatures) == {"x": values}


@pytest.mark.parametrize(
    ("body", "content_type", "name", "shape", "bare"),
    [
        ("1.0\n2.0", CSV, "x:0", (-1, 1), True),
        ("1.0\n2.0", CSV, "x:0", (-1, -1), True),
        ("1.0", CSV, "dense/input:0", (-1, 1), True),
        # As TensorFlow 2 names them.
        ("1.0\n2.0", CSV, "serving_default_x:0", (-1, 1), False),
        ("1.0\n2.0", CSV, "serving_default_x:0", (-1, -1), False),
        # What is fed as values comes back as the model has it.
        ("1.0\n2.0", CSV, "x:0", (-1,), False),
        ("1.0\n2.0", CSV, "x:0", None, False),
        ("1.0,2.0", CSV, "x:0", (-1, 1), False),
        ("[[1.0], [2.0]]", JSON, "x:0", (-1, 1), False),
    ],
)
def test_what_is_answered_as_values(
    body: str, content_type: str, name: str, shape: tuple[int, ...] | None, bare: bool
) -> None:
    infos = {"x": TensorInfo(name, DataType.DT_FLOAT, shape)}
    assert request(body, content_type, {DEFAULT_SIGNATURE: Signature(infos, {}, PREDICT)}).bare == bare


def test_npy() -> None:
    file = io.BytesIO()
    np.save(file, np.array([[1.5, 2.5]]))
    assert inputs(file.getvalue(), NPY, HALF_PLUS_THREE) == {"x": [[1.5, 2.5]]}


@pytest.mark.parametrize(
    ("body", "content_type", "signatures", "values"),
    [
        ('{"a": 1, "b": "x"}', JSON, TWO, {"a": [1], "b": [b"x"]}),
        ('{"a": 1, "b": "x"}\n{"b": "y", "a": 2}', JSON_LINES, TWO, {"a": [1, 2], "b": [b"x", b"y"]}),
        ('{"inputs": [1, 2]}\n{"inputs": [3, 4]}', JSON_LINES, INPUTS, {"inputs": [[1, 2], [3, 4]]}),
        ('{"inputs": [1, 2]}\n{"inputs": [3, 4]}', JSON, INPUTS, {"inputs": [[1, 2], [3, 4]]}),
        ('{"inputs": [1, 2]}', JSON_LINES, INPUTS, {"inputs": [[1, 2]]}),
        ('{"instances": [1, 2]}\n{"instances": [3, 4]}', JSON_LINES, INSTANCES, {"instances": [[1, 2], [3, 4]]}),
        ('{"instances": [[1, 2], [3, 4]]}', JSON, INSTANCES, {"instances": [[1, 2], [3, 4]]}),
        ('{"inputs": [1, 2], "mask": true}', JSON, INPUTS_AND_MASK, {"inputs": [[1, 2]], "mask": [True]}),
        ('{"examples": "abc"}', JSON, EXAMPLES, {"examples": [b"abc"]}),
    ],
)
def test_names_of_inputs_decide_what_an_object_is(
    body: str, content_type: str, signatures: dict[str, Signature], values: dict[str, Any]
) -> None:
    assert inputs(body, content_type, signatures) == values


@pytest.mark.parametrize(
    ("body", "content_type", "signatures", "values"),
    [
        ('{"inputs": [[1], [2]]}', JSON, HALF_PLUS_THREE, {"x": [[1], [2]]}),
        ('{"inputs": {"x": [[1], [2]]}}', JSON_LINES, HALF_PLUS_THREE, {"x": [[1], [2]]}),
        ('{"inputs": [[1, 2], [3, 4]]}', JSON, INPUTS, {"inputs": [[1, 2], [3, 4]]}),
    ],
)
def test_whole_inputs(body: str, content_type: str, signatures: dict[str, Signature], values: dict[str, Any]) -> None:
    parsed = request(body, content_type, signatures)
    assert not parsed.row_format
    assert {name: array.tolist() for name, array in parsed.inputs.items()} == values


def test_keys_of_requests_in_lines() -> None:
    line = '{"signature_name": "serving_default", "output_filter": ["z"], "instances": [1]}'
    parsed = request(f"{line}\n{line}", JSON_LINES, SCALARS)
    assert parsed.inputs["x"].tolist() == [1, 1]
    assert parsed.outputs == ("z",)


EXPECTS = "signature 'serving_default' expects x: float [-1,1], for example {\"instances\": [[0.0]]}"


@pytest.mark.parametrize(
    ("body", "content_type", "signatures", "message"),
    [
        ("", JSON, HALF_PLUS_THREE, f"JSON Value: {{\"instances\":[]}} No values in 'instances' array; {EXPECTS}"),
        (
            "",
            JSON_LINES,
            HALF_PLUS_THREE,
            f"JSON Value: {{\"instances\":[]}} No values in 'instances' array; {EXPECTS}",
        ),
        ("\n", CSV, HALF_PLUS_THREE, f"No values in 'instances' array: the body holds no record; {EXPECTS}"),
        ("whatever", JSON, HALF_PLUS_THREE, "JSON Parse error: Invalid value. at offset: 0"),
        (
            "[1,\n2",
            JSON,
            HALF_PLUS_THREE,
            "JSON Parse error: Missing a comma or ] after an array element. at offset: 5",
        ),
        ('{"junk": "data"}', JSON, HALF_PLUS_THREE, "Failed to process element: 0 key: junk of 'instances' list."),
        ("null", JSON, HALF_PLUS_THREE, "Failed to process element: 0 of 'instances' list."),
        ('{"examples": [{"x": 1}]}', JSON, HALF_PLUS_THREE, "Missing 'inputs' or 'instances' key"),
        ("[1, 2]", JSON, TWO, "instances is a plain list, but expecting list of objects"),
        # Several values on one line.
        (
            '{"x": 1} {"x": 2}',
            JSON,
            SCALARS,
            "JSON Parse error: The document root must not be followed by other values.",
        ),
        ('{"x": 1}\n\n{"x": 2} {"x": 3}', JSON, SCALARS, "line 3: JSON Parse error: The document root must not be"),
        ("1\n2 3", JSON_LINES, SCALARS, "line 2: JSON Parse error: The document root must not be followed by other"),
        (
            "1\n{'x': 2}",
            JSON_LINES,
            SCALARS,
            "line 2: JSON Parse error: Missing a name for object member. at offset: 1",
        ),
        ('{\n"x": 1}', JSON_LINES, SCALARS, "line 1: JSON Parse error: Missing a name for object member. at offset: 1"),
        # Lines that do not go together.
        ('1\n{"instances": [2]}', JSON_LINES, SCALARS, "line 1 is a record, but other lines are requests"),
        ('{"instances": [2]}\n1', JSON, SCALARS, "line 2 is a record, but other lines are requests"),
        ('{"instances": [1]}\n{"inputs": [2]}', JSON_LINES, SCALARS, "line 2: of several requests in one body"),
        ('{"inputs": [1]}\n{"inputs": [2]}', JSON_LINES, SCALARS, "line 1: of several requests in one body"),
        (
            '{"instances": [1]}\n{"instances": [2], "signature_name": "serving_default"}',
            JSON_LINES,
            SCALARS,
            "line 2: of several requests in one body",
        ),
        ('{"instances": [1]}\n{"instances": 2}', JSON_LINES, SCALARS, "line 2: of several requests in one body"),
        ("1,2", CSV, TWO, "text/csv has no names of inputs, and the model takes 2: send JSON or JSON lines; signature"),
        (
            "1,x",
            CSV,
            HALF_PLUS_THREE,
            "text/csv: line 1, column 2: expected a value of type float32, found 'x'; signat",
        ),
        (b"", NPY, HALF_PLUS_THREE, "application/x-npy: the body is no array as numpy.save writes it; signature"),
        ("1", CSV, {}, 'Serving signature name: "serving_default" not found in signature def'),
        ("1", JSON, {}, 'Serving signature name: "serving_default" not found in signature def'),
        (b"\xff", "text/csv; charset=ascii", TEXTS, "the body is not ascii, as its content type has it"),
        ("+2AA-", "text/csv; charset=utf-7", TEXTS, "the body is not utf-7, as its content type has it"),
    ],
)
def test_what_is_refused(body: str | bytes, content_type: str, signatures: dict[str, Signature], message: str) -> None:
    assert refusal(body, content_type, signatures).startswith(message)


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "csv", "application/json/x", "text/csv; charset=klingon"]
    + [
        f"text/csv; charset={charset}"
        for charset in ("punycode", "idna", "zlib", "unicode_escape", "undefined", "aliases", "\0", "é")
    ],
)
def test_unknown_types(content_type: str) -> None:
    with pytest.raises(RequestError) as caught:
        request("1", content_type, SCALARS)
    assert (caught.value.status, caught.value.message) == (415, f"Unsupported Media Type: {content_type}")


def test_charsets() -> None:
    assert inputs("é".encode("latin-1"), "text/csv; charset=ISO-8859-1", TEXTS) == {"x": ["é".encode()]}
    assert inputs('"é"'.encode("utf-16"), 'application/json; charset="utf-16"', TEXTS) == {"x": ["é".encode()]}


def test_bodies_to_classify_are_json() -> None:
    assert json_body(b"{}", None) == b"{}"
    assert json_body('"é"'.encode("latin-1"), "application/json; charset=latin1") == '"é"'.encode()
    for content_type in (CSV, NPY, "text/plain"):
        with pytest.raises(RequestError) as caught:
            json_body(b"", content_type)
        assert caught.value.status == 415


NUMBERS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1)
ENDS = st.sampled_from(["\n", "\r\n", "\n\n"])


@given(NUMBERS, ENDS, st.sampled_from([JSON, JSON_LINES, CSV]), st.booleans())
def test_records_of_numbers_keep_their_number_and_order(
    numbers: list[float], end: str, content_type: str, is_ended: bool
) -> None:
    body = end.join(map(repr, numbers)) + (end if is_ended else "")
    assert inputs(body, content_type, SCALARS) == {"x": numbers}


@given(st.lists(st.text(), min_size=1), st.sampled_from(["\n", "\r\n"]), st.sampled_from([JSON, JSON_LINES]))
def test_records_of_text_keep_their_number_and_order(texts: list[str], end: str, content_type: str) -> None:
    body = end.join(json.dumps({"x": text}, ensure_ascii=False) for text in texts)
    assert inputs(body, content_type, TEXTS) == {"x": [text.encode() for text in texts]}


WORDS = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"instances",
    b"inputs",
    b'"instances":',
    b'"x":',
    b":",
    b",",
    b"1",
    b"\n",
    b"b64",
)


@settings(deadline=None)
@given(
    st.binary() | st.lists(st.sampled_from(WORDS)).map(b"".join),
    st.sampled_from([JSON, JSON_LINES, CSV, NPY, "text/csv; charset=utf-16", "application/json; charset=utf-7"]),
    st.sampled_from([HALF_PLUS_THREE, SCALARS, UNKNOWN, TEXTS, TWO, INPUTS, INSTANCES, EXAMPLES, {}]),
)
def test_any_bytes_are_read_or_refused(body: bytes, content_type: str, signatures: dict[str, Signature]) -> None:
    try:
        request(body, content_type, signatures)
    except RequestError as error:
        assert error.status in (400, 501)


@pytest.mark.parametrize("content_type", [JSON, JSON_LINES, CSV])
@pytest.mark.parametrize("depth", [40, 500, 1000, 100_000])
def test_deep_nesting_is_refused(content_type: str, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    for body in (nested, f"{nested}\n" * 2, f'{{"x": {nested}}}', f'{{"instances": {nested}}}'):
        refusal(body, content_type, SCALARS)


@pytest.mark.parametrize("depth", [500, 1000, 1020])
def test_keys_that_nobody_knows_may_be_as_deep_as_json_is(depth: int) -> None:
    line = f'{{"instances": [1], "unknown": {"[" * depth}{"]" * depth}}}'
    assert inputs(line, JSON_LINES, SCALARS) == {"x": [1]}
    try:
        assert inputs(f"{line}\n{line}", JSON_LINES, SCALARS) == {"x": [1, 1]}
    except RequestError as error:
        assert error.message.startswith("line 2: of several requests in one body")
