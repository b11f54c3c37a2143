"""text/csv: which records a text holds, and that what is written is read as the same."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tf_toolkit.serving import csv_records
from tf_toolkit.serving.errors import RequestError
from tf_toolkit.serving.signature import NUMPY_TYPES, DataType

FLOAT, DOUBLE, HALF = DataType.DT_FLOAT, DataType.DT_DOUBLE, DataType.DT_HALF
INT8, INT32, INT64 = DataType.DT_INT8, DataType.DT_INT32, DataType.DT_INT64
UINT8, UINT64 = DataType.DT_UINT8, DataType.DT_UINT64
STRING, BOOL = DataType.DT_STRING, DataType.DT_BOOL
NAN = float("nan")
INF = float("inf")


def read(text: str | bytes, dtype: DataType) -> Any:
    records = csv_records.read(text if isinstance(text, bytes) else text.encode(), dtype)
    assert records.ndim == 2
    assert records.dtype == NUMPY_TYPES[dtype]
    return records.tolist()


def refusal(text: str | bytes, dtype: DataType) -> str:
    with pytest.raises(RequestError) as caught:
        read(text, dtype)
    assert caught.value.status == 400
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "dtype", "records"),
    [
        ("1.0,2.0,5.0\n1.0,2.0,5.0", FLOAT, [[1, 2, 5], [1, 2, 5]]),
        ("1.0\n2.0\n5.0\n", FLOAT, [[1], [2], [5]]),
        ("\r\n1, 2\r\n \t\r\n\n3 ,4 \r\n\n", FLOAT, [[1, 2], [3, 4]]),
        ("\ufeff1,2", FLOAT, [[1, 2]]),
        ('\ufeff"1",2', FLOAT, [[1, 2]]),
        ("-1e-3,1E5,0", DOUBLE, [[-0.001, 100000, 0]]),
        # Numbers that are none of JSON's.
        (".5,+1,1.,007,-.5e+1", DOUBLE, [[0.5, 1, 1, 7, -5]]),
        ("inf,-Infinity,+INF", FLOAT, [[INF, -INF, INF]]),
        ('"1.5"," 2 "', FLOAT, [[1.5, 2]]),
        # Rounded to the largest.
        ("3.4028235e+38", FLOAT, [[float(np.finfo(np.float32).max)]]),
        ("65504,65519", HALF, [[65504, 65504]]),
        ("18446744073709551616", DOUBLE, [[2.0**64]]),
        ("1,-2\n+3,004", INT32, [[1, -2], [3, 4]]),
        ("-9223372036854775808,9223372036854775807", INT64, [[-(2**63), 2**63 - 1]]),
        ("18446744073709551615", UINT64, [[2**64 - 1]]),
        ("+18446744073709551615", UINT64, [[2**64 - 1]]),
        ("true,False, TRUE ", BOOL, [[True, False, True]]),
        ("a,1,", STRING, [[b"a", b"1", b""]]),
        ("é,\t\n x , ", STRING, [["é".encode(), b"\t"], [b" x ", b" "]]),
        ('"a,b",1.0', STRING, [[b"a,b", b"1.0"]]),
        ('"say ""hi""",2', STRING, [[b'say "hi"', b"2"]]),
        ('"one\ntwo\r\nthree"\n\nfour', STRING, [[b"one\ntwo\r\nthree"], [b"four"]]),
        # Text that is empty is a record; a blank line is none.
        ('""\n\n"  "\n   \na', STRING, [[b""], [b"  "], [b"a"]]),
        ('5" pipe,3', STRING, [[b'5" pipe', b"3"]]),
        ("a\0b,c", STRING, [[b"a\0b", b"c"]]),
    ],
)
def test_records(text: str, dtype: DataType, records: list[list[Any]]) -> None:
    assert read(text, dtype) == records


def test_not_a_number() -> None:
    assert np.isnan(read("nan,NaN,-nan", FLOAT)).all()


@pytest.mark.parametrize(
    ("text", "dtype", "message"),
    [
        ("", FLOAT, "No values in 'instances' array: the body holds no record"),
        ("\n \r\n", STRING, "No values in 'instances' array: the body holds no record"),
        ("1,2\n\n3", FLOAT, "text/csv: line 3 has 1 columns, but the first record has 2"),
        ('"a\nb",c\nd', STRING, "text/csv: line 3 has 1 columns, but the first record has 2"),
        ("1,2\n3,x", FLOAT, "text/csv: line 2, column 2: expected a value of type float32, found 'x'"),
        ("1,,2", FLOAT, "text/csv: line 1, column 2: expected a value of type float32, found nothing"),
        ("1 2", FLOAT, "text/csv: line 1, column 1: expected a value of type float32, found '1 2'"),
        ("1_0", FLOAT, "text/csv: line 1, column 1: expected a value of type float32, found '1_0'"),
        ("٣", FLOAT, "text/csv: line 1, column 1: expected a value of type float32, found '٣'"),
        ("0x10", INT32, "text/csv: line 1, column 1: expected a value of type int32, found '0x10'"),
        # A number too large for the type is not infinity, nor another number.
        ("1e39", FLOAT, "text/csv: line 1, column 1: expected a value of type float32, found '1e39'"),
        ("1e400", DOUBLE, "text/csv: line 1, column 1: expected a value of type float64, found '1e400'"),
        ("65520", HALF, "text/csv: line 1, column 1: expected a value of type float16, found '65520'"),
        ("1,2.0", INT32, "text/csv: line 1, column 2: expected a value of type int32, found '2.0'"),
        ("1,1e2", INT64, "text/csv: line 1, column 2: expected a value of type int64, found '1e2'"),
        ("0\n256", UINT8, "text/csv: line 2, column 1: expected a value of type uint8, found '256'"),
        ("-1", UINT64, "text/csv: line 1, column 1: expected a value of type uint64, found '-1'"),
        ("9223372036854775808", INT64, "text/csv: line 1, column 1: expected a value of type int64, found '922337"),
        ("1" * 5000, INT64, "text/csv: line 1, column 1: expected a value of type int64, found '111111"),
        ("1", BOOL, "text/csv: line 1, column 1: expected a value of type bool, found '1'"),
        ("a\n\xff".encode("latin-1"), STRING, "text/csv: the byte at 2 is not UTF-8"),
        ('a\n"b', STRING, "text/csv: the record at line 2 cannot be read: unexpected end of data"),
        ('a\n"b"c', STRING, "text/csv: the record at line 2 cannot be read: ',' expected after '\"'"),
        ("1", DataType.DT_COMPLEX64, "text/csv cannot hold values of type DT_COMPLEX64"),
        ("1", DataType.DT_BFLOAT16, "text/csv cannot hold values of type DT_BFLOAT16"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str | bytes, dtype: DataType, message: str) -> None:
    assert refusal(text, dtype).startswith(message)


def test_a_field_may_be_as_long_as_the_body() -> None:
    long = "x" * 1_000_000
    assert read(f'"{long}",2', STRING) == [[long.encode(), b"2"]]


def test_text_becomes_no_structure() -> None:
    """Numbers are read as JSON; what would close its lists is no number."""
    assert "line 1, column 1" in refusal("1],[2", FLOAT)


TEXTS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0")), min_size=1, max_size=4)


@given(st.lists(TEXTS, min_size=1, max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_python_writes_is_read(rows: list[list[str]], end: str, quote_all: bool) -> None:
    width = len(rows[0])
    rows = [(row * width)[:width] for row in rows]
    file = io.StringIO()
    csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL).writerows(rows)
    expected = [
        [field.encode() for field in row] for row in rows if quote_all or width > 1 or not row[0] or row[0].strip(" \t")
    ]
    if not expected:
        assert "No values" in refusal(file.getvalue(), STRING)
    elif not file.getvalue().startswith("\ufeff"):
        assert read(file.getvalue(), STRING) == expected


FIELDS = st.floats().map(repr) | st.integers(-(2**70), 2**70).map(str) | st.text("0123456789+-.eE ", max_size=5)


@settings(deadline=None)
@given(st.lists(st.lists(FIELDS, min_size=2, max_size=2), min_size=1), st.sampled_from([FLOAT, DOUBLE, INT8, UINT64]))
def test_quotes_change_nothing_for_numbers(rows: list[list[str]], dtype: DataType) -> None:
    """Bodies of plain numbers are read another way than others."""

    def outcome(quote: str) -> str:
        body = "\n".join(",".join(f"{quote}{field}{quote}" for field in row) for row in rows)
        try:
            return str(csv_records.read(body.encode(), dtype).tolist()).replace("-0.0", "0.0")
        except RequestError as error:
            return error.message

    assert outcome("") == outcome('"')


@settings(deadline=None)
@given(st.data())
def test_what_is_written_is_read_as_the_same(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([FLOAT, DOUBLE, HALF, INT32, INT64, UINT8, UINT64, BOOL]))
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 4)))
    values = data.draw(arrays.arrays(NUMPY_TYPES[dtype], shape))
    written = csv_records.write([values])
    assert written.count(b"\n") == shape[0] - 1
    np.testing.assert_array_equal(csv_records.read(written, dtype), values)


@given(
    st.lists(st.lists(st.text().map(lambda text: text.encode(errors="replace")), min_size=2, max_size=2), min_size=1)
)
def test_text_that_is_written_is_read_as_the_same(rows: list[list[bytes]]) -> None:
    one, two = (np.array([[row[place]] for row in rows] + [[None]], object)[:-1] for place in (0, 1))
    assert csv_records.read(csv_records.write([one, two]), STRING).tolist() == rows
    assert csv_records.read(csv_records.write([one]), STRING).tolist() == one.tolist()


def test_outputs_stand_side_by_side() -> None:
    scores = np.array([[0.1, np.nan], [1e-7, -np.inf]], np.float32)
    labels = np.array([[b'a "b"'], [b""]], object)
    assert csv_records.write([labels, scores]) == b'"a ""b""",0.1,nan\n"",1e-07,-inf'


def test_no_record_is_no_line() -> None:
    assert csv_records.write([np.zeros((0, 3), np.float32)]) == b""


@settings(deadline=None)
@given(
    st.binary()
    | st.lists(st.sampled_from([b"1", b".", b",", b'"', b"\n", b"\r", b" ", b"e", b"a", b"-"])).map(b"".join),
    st.sampled_from(sorted(DataType)),
)
def test_any_bytes_are_read_or_refused(body: bytes, dtype: DataType) -> None:
    try:
        records = csv_records.read(body, dtype)
    except RequestError as error:
        assert error.status == 400
    else:
        assert len(records) <= body.count(b"\n") + 1
