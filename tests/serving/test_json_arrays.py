"""JSON values into arrays: the same whichever way they take, and nothing that its type cannot hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_toolkit.serving.json_arrays import convert
from tf_toolkit.serving.json_faults import Fault, first_fault, to_array
from tf_toolkit.serving.signature import NUMPY_TYPES, DataType

TYPES = [dtype for dtype in DataType if not dtype.name.startswith("DT_COMPLEX")]
WITHOUT_BOOLEANS = (
    st.none()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.integers(-2, 300)
    | st.floats()
    | st.sampled_from([2.0**24, 2**24, 2**53, 1e39, 3.5e38, 65504, 65505.0])
    | st.text(max_size=3)
    | st.just({"b64": "AQ=="})
)


def nested(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(values, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


def rectangles(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Nested lists that have a shape, mostly."""
    sizes = st.lists(st.integers(0, 3), max_size=3)

    def of_shape(shape: list[int]) -> st.SearchStrategy[Any]:
        inner = values if not shape else of_shape(shape[1:])
        return st.lists(inner, min_size=shape[0], max_size=shape[0]) if shape else inner

    return sizes.flatmap(of_shape)


JSON = nested(WITHOUT_BOOLEANS) | rectangles(st.floats() | st.integers(-5, 5)) | rectangles(WITHOUT_BOOLEANS)


@given(JSON, st.sampled_from(TYPES))
def test_the_fast_way_is_the_exact_one(value: Any, dtype: DataType) -> None:
    exact, fast = convert(value, dtype), convert(value, dtype, no_booleans=True)

    assert (exact is None) is (fast is None)
    if exact is not None and fast is not None:
        assert exact.dtype == fast.dtype == NUMPY_TYPES[dtype]
        assert exact.shape == fast.shape
        assert exact.tolist() == fast.tolist() or exact.tobytes() == fast.tobytes()


@given(JSON | nested(WITHOUT_BOOLEANS | st.booleans()), st.sampled_from(TYPES))
def test_a_value_makes_an_array_or_a_fault(value: Any, dtype: DataType) -> None:
    try:
        array = to_array(value, dtype)
    except Fault as fault:
        assert fault.message
        if isinstance(value, list) and value:
            index, of_row = first_fault(value, dtype)
            assert 0 <= index < len(value)
            assert of_row.message
    else:
        assert array.dtype == NUMPY_TYPES[dtype]


@given(JSON | nested(st.booleans()), st.sampled_from(TYPES))
def test_an_array_has_what_the_lists_have(value: Any, dtype: DataType) -> None:
    array = convert(value, dtype)

    if array is None:
        return
    expected = np.array(value, "float64" if array.dtype.kind == "f" else None)
    if array.dtype != object and expected.size:
        assert array.shape == expected.shape
        assert np.array_equal(array, expected.astype(array.dtype), equal_nan=array.dtype.kind == "f")


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (True, "FLOAT", "JSON Value: true Type: True is not of expected type: float"),
        ([1.5, None], "FLOAT", "JSON Value: null Type: Null is not of expected type: float"),
        (["1.5"], "FLOAT", 'JSON Value: "1.5" Type: String is not of expected type: float'),
        ([{"a": 1}], "FLOAT", 'JSON Value: {"a":1} Type: Object is not of expected type: float'),
        (16777217, "FLOAT", "Cannot convert JSON value: 16777217 to float without loss of precision."),
        (3.5e38, "FLOAT", "Cannot convert JSON value: 3.5e+38 to float without loss of precision."),
        (
            9007199254740993,
            "DOUBLE",
            "Cannot convert JSON value: 9007199254740993 to double without loss of precision.",
        ),
        (65505, "HALF", "Cannot convert JSON value: 65505 to half without loss of precision."),
        (1.0, "INT32", "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        (False, "INT64", "JSON Value: false Type: False is not of expected type: int64"),
        (-1, "UINT8", "JSON Value: -1 Type: Number is not of expected type: uint8, which goes from 0 to 255"),
        (1 << 63, "INT64", "JSON Value: 9223372036854775808 Type: Number is not of expected type: int64, which goes"),
        (1, "BOOL", "JSON Value: 1 Type: Number is not of expected type: bool"),
        (1, "STRING", "JSON Value: 1 Type: Number is not of expected type: string"),
        ({"b64": 1}, "STRING", 'JSON Value: {"b64":1} not formatted correctly for base64 data'),
        ({"b64": "é"}, "STRING", "Unable to base64 decode"),
        (1, "BFLOAT16", "Conversion of JSON Value: 1 to type: bfloat16"),
        ([], "COMPLEX64", "JSON Value: [] cannot be of type: complex64"),
        ([1, [2]], "INT32", "Encountered list at unexpected level: 1 expected < 1"),
        ([[1], 2], "INT32", "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ([[1, 2], [3]], "INT32", "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ([[], ""], "INT32", 'JSON Value: "" found at incorrect level: 2 in the JSON DOM. Expected at level: 2'),
    ],
)
def test_faults(value: object, dtype: str, message: str) -> None:
    with pytest.raises(Fault) as fault:
        to_array(value, DataType[f"DT_{dtype}"])

    assert fault.value.message.startswith(message)


def test_the_first_fault_is_found_far_behind() -> None:
    rows = [[1, 2]] * 5000

    assert str(first_fault([*rows, [1, "a"], [3]], DataType.DT_INT32)[1]).startswith(
        'INVALID_ARGUMENT: JSON Value: "a"'
    )
    assert first_fault([*rows, [3]], DataType.DT_INT32)[0] == 5000
    with pytest.raises(Fault, match="JSON Value: null"):
        to_array([*range(5000), None], DataType.DT_INT32)


@pytest.mark.parametrize("text", ["aGVsbG8=", "aGVsbG8", "aGVs\nbG8 ="])
def test_base64_with_and_without_padding(text: str) -> None:
    assert to_array([{"b64": text}, "hello"], DataType.DT_STRING).tolist() == [b"hello", b"hello"]


def test_a_float_is_the_nearest_that_the_type_has() -> None:
    # The last but one is how the largest is written, which is more than it is.
    values = [0.1, 2.0**24 + 1, 3.4028235e38, float("inf")]

    assert to_array(values, DataType.DT_FLOAT, no_booleans=True).tobytes() == np.array(values, "float32").tobytes()


def test_lists_as_deep_as_arrays_go() -> None:
    value: Any = 1
    for _ in range(32):
        value = [value]

    assert to_array(value, DataType.DT_INT32, no_booleans=True).ndim == 32
    with pytest.raises(Fault, match="lists in lists 33 deep"):
        to_array([value], DataType.DT_INT32, no_booleans=True)
