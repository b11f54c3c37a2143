"""The header that says which model, version and method a request is for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_toolkit.serving.custom_attributes import CustomAttributes, parse
from tf_toolkit.serving.errors import RequestError


@pytest.mark.parametrize(
    ("header", "attributes"),
    [
        (None, (None, None, None)),
        ("", (None, None, None)),
        (
            "tfs-model-name=half_plus_three,tfs-model-version=124,tfs-method=regress",
            ("half_plus_three", "124", "regress"),
        ),
        ("tfs-method=classify , tfs-model-name = a.b-c_1 ", ("a.b-c_1", None, "classify")),
        ("tfs-model-version=00000123", (None, "00000123", None)),
        ("trace=a=b,tfs-model-name=m,\ttfs-method=predict,x", ("m", None, "predict")),
        # Only what begins with the key.
        ("x-tfs-method=regress,tfs-methods=1,tfs-method", (None, None, None)),
        ("tfs-model-name=a,tfs-model-name=b", ("b", None, None)),
        (",,=,==", (None, None, None)),
    ],
)
def test_what_a_header_asks_for(header: str | None, attributes: tuple[str | None, ...]) -> None:
    assert parse(header) == CustomAttributes(*attributes)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("tfs-model-name=../../x", "invalid tfs-model-name"),
        ("tfs-model-name=", "invalid tfs-model-name"),
        ("tfs-model-name=a=b", "invalid tfs-model-name"),
        ("tfs-model-name=a b", "invalid tfs-model-name"),
        ("tfs-model-name=a\n", "invalid tfs-model-name"),
        ("tfs-model-name=.hidden", "invalid tfs-model-name"),
        (f"tfs-model-name={'a' * 256}", "invalid tfs-model-name"),
        ("tfs-model-version=latest", "invalid tfs-model-version"),
        ("tfs-model-version=-1", "invalid tfs-model-version"),
        ("tfs-model-version=١٢", "invalid tfs-model-version"),
        (f"tfs-model-version={'1' * 20}", "invalid tfs-model-version"),
        ("tfs-method=delete", "invalid tfs-method"),
        ("tfs-method=predict/../x", "invalid tfs-method"),
    ],
)
def test_what_is_no_name_version_or_method_is_refused(header: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(header)
    assert (caught.value.status, caught.value.message) == (400, message)


@given(
    st.text() | st.lists(st.sampled_from(["tfs-model-name", "tfs-method", "=", ",", " ", "a", "1", "/"])).map("".join)
)
def test_any_header_is_read_or_refused(header: str) -> None:
    try:
        name, version, method = parse(header)
    except RequestError as error:
        assert error.status == 400
    else:
        assert "/" not in (name or "")
        assert (version or "0").isdigit()
        assert method in (None, "predict", "classify", "regress")
