"""application/x-npy: what numpy.save writes, and bodies that only look like it."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tf_toolkit.serving import npy
from tf_toolkit.serving.errors import RequestError
from tf_toolkit.serving.signature import NUMPY_TYPES, DataType


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_header(header: str, values: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode() + values


def refusal(body: bytes, dtype: DataType = DataType.DT_FLOAT) -> str:
    with pytest.raises(RequestError) as caught:
        npy.read(body, dtype)
    assert caught.value.status == 400
    assert "\n" not in caught.value.message
    return caught.value.message


@settings(deadline=None)
@given(st.data())
def test_what_numpy_saves_is_read(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([dtype for dtype in NUMPY_TYPES if dtype is not DataType.DT_STRING]))
    array = data.draw(arrays.arrays(NUMPY_TYPES[dtype], arrays.array_shapes(min_dims=0, min_side=0)))
    swapped = array.astype(array.dtype.newbyteorder(), order="F" if data.draw(st.booleans()) else "C")
    found = npy.read(saved(data.draw(st.sampled_from([array, swapped]))), dtype)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(npy.read(npy.write("y", found), dtype), array)


@pytest.mark.parametrize(
    ("array", "dtype", "values"),
    [
        (np.array([[1.5, 2]]), DataType.DT_FLOAT, [[1.5, 2]]),
        (np.array([1, 2]), DataType.DT_FLOAT, [1, 2]),
        (np.array([np.inf, 1e300]), DataType.DT_DOUBLE, [np.inf, 1e300]),
        (np.array([np.inf, 1]), DataType.DT_HALF, [np.inf, 1]),
        (np.array([1, -2]), DataType.DT_INT8, [1, -2]),
        (np.array([True]), DataType.DT_INT32, [1]),
        (np.array([[b"a", b"bc"]]), DataType.DT_STRING, [[b"a", b"bc"]]),
        (np.array(["é", ""]), DataType.DT_STRING, ["é".encode(), b""]),
    ],
)
def test_an_array_of_another_type_of_the_same_kind(array: Any, dtype: DataType, values: list[Any]) -> None:
    found = npy.read(saved(array), dtype)
    assert found.dtype == NUMPY_TYPES[dtype]
    assert found.tolist() == values


@pytest.mark.parametrize(
    ("array", "dtype", "message"),
    [
        (np.array([1.0]), DataType.DT_INT32, "the array is of type float64, but the model takes int32"),
        (np.array([1j]), DataType.DT_FLOAT, "the array is of type complex128, but the model takes float32"),
        (np.array([1]), DataType.DT_STRING, "the array is of type int64, but the model takes text, of type S or U"),
        (np.array(["1"]), DataType.DT_INT64, "the array is of type str32, but the model takes int64"),
        (np.array([1]), DataType.DT_BFLOAT16, "the array is of type int64, but the model takes DT_BFLOAT16"),
        (np.array([1]), DataType.DT_UINT8, "the array is of type int64, but the model takes uint8"),
        (np.array([1, 300]), DataType.DT_INT8, "a value of the int64 array is too large for int8"),
        (np.array([2**31]), DataType.DT_INT32, "a value of the int64 array is too large for int32"),
        (np.array([1e39]), DataType.DT_FLOAT, "a value of the float64 array is too large for float32"),
        (np.array([70000]), DataType.DT_HALF, "a value of the int64 array is too large for float16"),
    ],
)
def test_values_that_the_type_cannot_hold(array: Any, dtype: DataType, message: str) -> None:
    assert refusal(saved(array), dtype) == f"application/x-npy: {message}"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is no array as numpy.save writes it"),
        (b"\x93NUMPY", "the body is no array as numpy.save writes it"),
        (b"PK\x03\x04 a .npz", "the body is no array as numpy.save writes it"),
        (b"\x93NUMPY\x01\x00\xff\xff{}", "the header is longer than the body, or than any that numpy writes"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "the header is longer than the body, or than any that numpy writes"),
        (with_header("{'descr': '<f4'"), "the header cannot be read"),
        (with_header("[" * 5000), "the header cannot be read"),
        (with_header("__import__('os').abort()"), "the header cannot be read"),
        (with_header("{[]: 1}"), "the header cannot be read"),
        (with_header("[]"), "the header cannot be read"),
        (with_header("{}"), "arrays of numbers, booleans or text are read, not of type 'None'"),
        (with_header("{'descr': '<f4', 'shape': (-1,)}"), "the header has no shape"),
        (with_header("{'descr': '<f4', 'shape': (True,)}", b"abcd"), "the header has no shape"),
        (with_header("{'descr': '<f4', 'shape': [1]}", b"abcd"), "the header has no shape"),
        (
            with_header("{'descr': '<f4', 'fortran_order': 'False', 'shape': (1,)}", b"abcd"),
            "fortran_order in the header is neither True nor False",
        ),
        (with_header("{'descr': '<f4', 'shape': (2,)}", b"abcd"), "4 bytes follow the header, which claims 8"),
        (with_header("{'descr': '<f4', 'shape': (1,)}", b"abcde"), "5 bytes follow the header, which claims 4"),
        (
            with_header("{'descr': '<f4', 'shape': (1000000000000000000000,)}"),
            "0 bytes follow the header, which claims 4",
        ),
        (with_header("{'descr': '<U0', 'shape': (1000000,)}"), "0 bytes follow the header, which claims 0"),
        (
            with_header(f"{{'descr': '<f4', 'shape': {(1,) * 33}}}", b"abcd"),
            "the array has 33 dimensions, 32 are the most",
        ),
        (
            with_header("{'descr': '|O', 'shape': (1,)}"),
            "arrays of numbers, booleans or text are read, not of type '|O'",
        ),
        (
            with_header("{'descr': [('a', '<f4')], 'shape': (1,)}"),
            "arrays of numbers, booleans or text are read, not of",
        ),
    ],
)
def test_what_is_no_array(body: bytes, message: str) -> None:
    assert refusal(body).startswith(f"application/x-npy: {message}")


def test_pickles_are_not_read() -> None:
    assert "not of type '|O'" in refusal(saved(np.array([{}], object)))


def test_text_that_is_no_unicode() -> None:
    header = "{'descr': '<U1', 'shape': (1,)}"
    assert refusal(with_header(header, struct.pack("<I", 0x110000)), DataType.DT_STRING)
    assert refusal(with_header(header, struct.pack("<I", 0xD800)), DataType.DT_STRING)


def test_any_byte_but_zero_is_true() -> None:
    body = with_header("{'descr': '|b1', 'shape': (3,)}", b"\x00\x01\x07", version=2)
    assert npy.read(body, DataType.DT_BOOL).view("u1").tolist() == [0, 1, 1]


def test_text_is_not_written() -> None:
    with pytest.raises(RequestError) as caught:
        npy.write("label", np.array([b"a"], object))
    assert (caught.value.status, caught.value.message) == (
        406,
        "application/x-npy cannot hold text: accept another type for the output 'label'",
    )


@settings(deadline=None)
@given(st.data())
def test_any_bytes_are_read_or_refused(data: st.DataObject) -> None:
    body = bytearray(saved(np.arange(6, dtype=data.draw(st.sampled_from(["<f4", ">i8", "u1"]))).reshape(2, 3)))
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=4)):
        body[place] = byte
    dtype = data.draw(st.sampled_from(sorted(DataType)))
    try:
        array = npy.read(bytes(body), dtype)
    except RequestError as error:
        assert error.status == 400
    else:
        assert array.dtype == NUMPY_TYPES[dtype]
