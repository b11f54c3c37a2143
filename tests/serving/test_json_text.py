"""JSON text as TensorFlow Serving reads it, and what it says of text that is none."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_toolkit.serving.errors import RequestError
from tf_toolkit.serving.json_text import parse, shown

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_all_values_are_read(value: object) -> None:
    # Python's own has the same words for what is not finite.
    assert json.dumps(parse(json.dumps(value).encode())) == json.dumps(value)
    assert json.dumps(parse(json.dumps(value, ensure_ascii=False).encode())) == json.dumps(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"[Infinity, -Infinity, Inf,-Inf]", [math.inf, -math.inf, math.inf, -math.inf]),
        (b'["NaN", "a\\"NaN", Inf]', ["NaN", 'a"NaN', math.inf]),
        (b'{"a" : Inf}', {"a": math.inf}),
        (b"Inf", math.inf),
        (b"\xef\xbb\xbf[1, Inf]", [1, math.inf]),
        (b"[18446744073709551615, 18446744073709551616]", [(1 << 64) - 1, 2.0**64]),
        (b"[Inf, 18446744073709551615, 18446744073709551616, -9223372036854775809, -0]", None),
        (b"[Inf, " + b"9" * 300 + b"]", [math.inf, 1e300]),
        (b'{"a": 1, "a": 2}', {"a": 2}),
    ],
)
def test_the_dialect(text: bytes, value: object) -> None:
    if value is None:
        value = [math.inf, (1 << 64) - 1, 2.0**64, -(2.0**63), 0]
    assert repr(parse(text)) == repr(value)


def test_no_number_with_a_sign() -> None:
    found = parse(b"[NaN, -NaN]")

    assert all(map(math.isnan, found))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"", "The document is empty"),
        (b" ", "The document is empty. at offset: 0"),
        (b"[nope]", "Invalid value. at offset: 1"),
        (b"[1, ]", "Invalid value. at offset: 4"),
        (b'{"a": 1, }', "Missing a name for object member. at offset: 9"),
        (b"{'a': 1}", "Missing a name for object member. at offset: 1"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a": 1 "b": 2}', "Missing a comma or } after an object member. at offset: 8"),
        (b"[1 2]", "Missing a comma or ] after an array element. at offset: 3"),
        (b'{"a": [1, {"b": "]"}', "Missing a comma or ] after an array element. at offset: 20"),
        (b'{"a": [1, {"b": 5', "Missing a comma or } after an object member. at offset: 17"),
        (b"[1,", "Invalid value. at offset: 3"),
        (b"[" * 500, "Invalid value. at offset: 500"),
        (b'{"a":', "Invalid value. at offset: 5"),
        (b'{"a":1,', "Missing a name for object member. at offset: 7"),
        (b'["abc\\"', "Missing a closing quotation mark in string. at offset: 7"),
        (b'["\\x"]', "Invalid escape character in string. at offset: 2"),
        (b'["\\ud800"]', "The surrogate pair in string is invalid. at offset: 2"),
        (b'["\xff"]', "Invalid encoding in string. at offset: 2"),
        ('["é", x]'.encode(), "Invalid value. at offset: 7"),
        (b"[1.]", "Miss fraction part in number. at offset: 3"),
        (b"[1e]", "Miss exponent in number. at offset: 3"),
        (b"[1e999]", "Number too big to be stored in double. at offset: 1"),
        (b"[Inf, 1e999]", "Number too big to be stored in double. at offset: 6"),
        (b"[1NaN]", "Missing a comma or ] after an array element. at offset: 2"),
        (b"[NaN5]", "Invalid value. at offset: 1"),
        (b"{NaN: 1}", "Missing a name for object member. at offset: 1"),
        (b"{} {}", "The document root must not be followed by other values. at offset: 3"),
    ],
)
def test_what_is_no_json(text: bytes, error: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse(text)

    assert (refused.value.status, refused.value.message) == (400, f"JSON Parse error: {error}")


@pytest.mark.parametrize("text", [b"[" * 2000, b"[" * 2000 + b"]" * 2000, b"[NaN," + b"[" * 1000 + b"]" * 1001])
def test_lists_that_are_too_deep(text: bytes) -> None:
    with pytest.raises(RequestError, match=r"^JSON Parse error: .*(too deep|depth limit)"):
        parse(text)


@given(st.binary() | st.text('[]{}",: \\nNaInfity-0.e1u').map(str.encode))
def test_whatever_the_bytes_nothing_else_is_raised(text: bytes) -> None:
    try:
        shown(parse(text))
    except RequestError as error:
        assert error.status == 400
        assert error.message.startswith("JSON Parse error: ")


def test_long_and_deep_values_are_shown_in_short() -> None:
    deep: list[object] = []
    for _ in range(1000):
        deep = [deep]

    assert shown("x" * 1000) == '"' + "x" * 199 + "..."
    assert shown(deep) == "[...]"
    assert shown({"a": deep}) == "{...}"
    assert (shown(1.0), shown(math.nan), shown(1), shown(None)) == ("1.0", "NaN", "1", "null")
