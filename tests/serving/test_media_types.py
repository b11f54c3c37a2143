"""What a body is declared to be, and which of the answers a client likes best."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_toolkit.serving import media_types
from tf_toolkit.serving.media_types import ANSWERS, CSV, JSON, JSON_LINES, NPY


@pytest.mark.parametrize(
    ("value", "name", "parameters"),
    [
        ("text/csv", "text/csv", {}),
        (" Text/CSV ; Charset=UTF-8", "text/csv", {"charset": "UTF-8"}),
        ('text/csv;charset="latin-1"; header=absent', "text/csv", {"charset": "latin-1", "header": "absent"}),
        ("application/json;", "application/json", {}),
        ("", "", {}),
    ],
)
def test_type_and_parameters(value: str, name: str, parameters: dict[str, str]) -> None:
    assert media_types.parse(value) == (name, parameters)


@pytest.mark.parametrize(
    ("accept", "answer"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/json", JSON),
        ("text/csv", CSV),
        ("TEXT/CSV; charset=utf-8", CSV),
        ("text/*", CSV),
        ("application/jsonlines", JSON_LINES),
        ("application/x-npy", NPY),
        # The best, and of the best the first listed.
        ("application/json;q=0.5, text/csv", CSV),
        ("application/json, text/csv", JSON),
        ("text/csv, application/json", CSV),
        ("text/csv;q=0.2,application/jsonlines;q=0.9", JSON_LINES),
        ("*/*;q=0.1, application/x-npy", NPY),
        ("application/json;q=0, application/*", JSON_LINES),
        # A browser's.
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),
        # What there is not, what cannot be read, and what is refused all the same.
        ("text/html", JSON),
        ("text/html, text/csv", CSV),
        ("text/csv;q=best", CSV),
        ("application/json;q=0", JSON),
        (';,"', JSON),
    ],
)
def test_answer(accept: str | None, answer: str) -> None:
    assert media_types.choose(accept) == answer


@pytest.mark.parametrize(
    ("accept", "answer"),
    [(None, CSV), ("*/*", CSV), ("text/html", CSV), ("application/*", JSON), ("application/json", JSON)],
)
def test_the_default_is_what_a_range_means(accept: str | None, answer: str) -> None:
    assert media_types.choose(accept, "text/csv") == answer


@given(st.text() | st.lists(st.sampled_from(["text/csv", "*/*", ";q=", "0.5", "0", ",", '"', ";", " "])).map("".join))
def test_any_accept_has_an_answer(accept: str) -> None:
    assert media_types.choose(accept) in ANSWERS
