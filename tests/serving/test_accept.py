"""/invocations: outputs of a model as every type that a client may accept."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tf_toolkit.serving.accept import render_invocation
from tf_toolkit.serving.errors import RequestError
from tf_toolkit.serving.media_types import ANSWERS, CSV, JSON, JSON_LINES, NPY
from tf_toolkit.serving.rest_json import PredictRequest
from tf_toolkit.serving.signature import DEFAULT_SIGNATURE, NUMPY_TYPES, PREDICT, DataType, Signature

LINES = [JSON_LINES, CSV]


def render(media_type: str, wanted: tuple[str, ...] | None = None, in_rows: bool = True, **outputs: Any) -> bytes:
    request = PredictRequest(DEFAULT_SIGNATURE, Signature({}, {}, PREDICT), {}, in_rows, wanted)
    return render_invocation(request, outputs, media_type)


def floats(*values: Any) -> Any:
    return np.array(values, np.float32)


def texts(*values: Any) -> Any:
    return np.array(values, object)


@pytest.mark.parametrize(
    ("outputs", "lines", "table"),
    [
        ({"y": floats(3.5, 4, 5.5)}, b"3.5\n4.0\n5.5", b"3.5\n4.0\n5.5"),
        ({"y": floats([3.5, 4], [0.1, 1e-7])}, b"[3.5,4.0]\n[0.1,1e-7]", b"3.5,4.0\n0.1,1e-7"),
        # What belongs to one record is in one line.
        ({"y": floats([[1, 2], [3, 4]])}, b"[[1.0,2.0],[3.0,4.0]]", b"1.0,2.0,3.0,4.0"),
        ({"y": floats([np.nan, 1], [-np.inf, 2])}, b"[NaN,1.0]\n[-Infinity,2.0]", b"nan,1.0\n-inf,2.0"),
        ({"y": np.array([[1, -2]], np.int64)}, b"[1,-2]", b"1,-2"),
        ({"y": np.array([True, False])}, b"true\nfalse", b"true\nfalse"),
        ({"y": texts(b'say "hi"', b"a,b", b"")}, b'"say \\"hi\\""\n"a,b"\n""', b'"say ""hi"""\n"a,b"\n""'),
        ({"y": texts(b"one\ntwo", b" ")}, b'"one\\ntwo"\n" "', b'"one\ntwo"\n" "'),
        ({"y_bytes": texts(b"\xff", b"a")}, b'{"b64":"/w=="}\n{"b64":"YQ=="}', b"/w==\nYQ=="),
        (
            {"label": texts(b"a", b"b"), "best": np.array([7, 8]), "all": floats([0.5, 1], [2, 3])},
            b'{"label":"a","best":7,"all":[0.5,1.0]}\n{"label":"b","best":8,"all":[2.0,3.0]}',
            # In the order of the names.
            b"0.5,1.0,7,a\n2.0,3.0,8,b",
        ),
        ({"y": floats().reshape(0, 3)}, b"", b""),
    ],
)
def test_a_line_for_each_record(outputs: dict[str, Any], lines: bytes, table: bytes) -> None:
    assert render(JSON_LINES, **outputs) == lines
    assert render(CSV, **outputs) == table


def test_columns_are_in_the_order_that_was_asked_for() -> None:
    outputs = {"a": floats(1), "b": floats(2)}
    assert render(CSV, ("b", "a"), **outputs) == b"2.0,1.0"


def test_rows_of_one_are_values_where_the_request_has_values() -> None:
    signature = Signature({}, {}, PREDICT)
    request = PredictRequest(DEFAULT_SIGNATURE, signature, {}, row_format=True, outputs=None, bare=True)
    y, scores = floats([3.5], [4]), floats([1, 2], [3, 4])
    assert render_invocation(request, {"y": y}, JSON) == b'{"predictions":[3.5,4.0]}'
    assert render_invocation(request, {"y": y}, JSON_LINES) == b"3.5\n4.0"
    assert render_invocation(request, {"y": y, "s": scores}, JSON_LINES).splitlines()[1] == b'{"y":4.0,"s":[3.0,4.0]}'
    assert render_invocation(request, {"y": floats([[1]], [[2]])}, JSON) == b'{"predictions":[[[1.0]],[[2.0]]]}'


def test_json_is_that_of_the_rest_api() -> None:
    assert json.loads(render(JSON, y=floats(3.5, 4, 5.5))) == {"predictions": [3.5, 4.0, 5.5]}
    assert json.loads(render(JSON, in_rows=False, y=floats(1))) == {"outputs": [1.0]}


def test_whole_outputs_have_lines_too() -> None:
    assert render(CSV, in_rows=False, y=floats(1, 2)) == b"1.0\n2.0"


def test_npy() -> None:
    found = np.load(io.BytesIO(render(NPY, y=floats([[1], [2]]))))
    assert found.dtype == np.float32
    assert found.tolist() == [[[1], [2]]]


@pytest.mark.parametrize(
    ("media_type", "outputs", "message"),
    [
        (JSON_LINES, {"y": np.float32(1), "z": floats(1)}, "the outputs are no rows: y [], z [1]; or accept"),
        (CSV, {"y": floats(1, 2), "z": floats(1)}, "the outputs are no rows: y [2], z [1]; or accept application/json"),
        (CSV, {"y": np.array([1j])}, "text/csv cannot hold values of type complex128, as output 'y' has; or accept"),
        (NPY, {"z": floats(1), "y": floats(1)}, "application/x-npy has one output, there are: y, z; name one in 'outp"),
        (NPY, {"y": texts(b"a")}, "application/x-npy cannot hold text: accept another type for the output 'y'"),
    ],
)
def test_what_a_type_cannot_hold(media_type: str, outputs: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        render(media_type, **outputs)
    assert caught.value.status == 406
    assert message in caught.value.message


@settings(deadline=None)
@given(st.data())
def test_records_keep_their_number_and_order(data: st.DataObject) -> None:
    shape = data.draw(arrays.array_shapes(max_dims=3, max_side=4))
    y = data.draw(arrays.arrays(np.float32, shape))
    label = data.draw(st.lists(st.binary(), min_size=shape[0], max_size=shape[0]))
    outputs = {"y": y, "label_bytes": texts(*label)}
    lines = render(JSON_LINES, **outputs).split(b"\n")
    # Not splitlines(): only these end a record.
    assert len(lines) == shape[0]
    predictions = json.loads(render(JSON, **outputs))["predictions"]
    # As text, for NaN is not equal to itself.
    assert json.dumps([json.loads(line) for line in lines]) == json.dumps(predictions)
    table = list(csv.reader(io.StringIO(render(CSV, y=y).decode())))
    np.testing.assert_array_equal(np.array(table, np.float32).reshape(shape), y)


@settings(deadline=None)
@given(st.sampled_from(ANSWERS), st.sampled_from(sorted(NUMPY_TYPES)), st.data())
def test_any_outputs_are_written_or_refused(media_type: str, dtype: DataType, data: st.DataObject) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3))
    if dtype is DataType.DT_STRING:
        y = np.empty(shape, object)
        y.ravel()[:] = data.draw(st.lists(st.binary(), min_size=y.size, max_size=y.size))
    else:
        y = data.draw(arrays.arrays(NUMPY_TYPES[dtype], shape))
    try:
        body = render(media_type, y=y)
    except RequestError as error:
        assert error.status in (400, 406)
        return
    if media_type == JSON_LINES:
        assert len(body.split(b"\n") if body else []) == len(y)
