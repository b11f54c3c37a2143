"""How files come apart into payloads, and what becomes of answers: every byte is accounted for."""

from __future__ import annotations

import argparse
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipe import framed, record_io
from tf_toolkit.local.job import UsageError
from tf_toolkit.local.transform import options as transform_options
from tf_toolkit.local.transform.json_path import JsonPath, NotSelected
from tf_toolkit.local.transform.processing import Processing
from tf_toolkit.local.transform.records import Fault, Payload, Splitter

LIMIT = 40
CSV = "--content-type text/csv --accept text/csv --split-type Line --assemble-with Line"
JSON = "--content-type application/json --accept application/json"
JSON_LINES = (
    "--content-type application/jsonlines --accept application/jsonlines --split-type Line --assemble-with Line"
)
PARTS = record_io(1, b"abcd") + record_io(2, b"") + record_io(3, b"efg")


def options(words: str) -> transform_options.Options:
    parser = argparse.ArgumentParser()
    transform_options.add_options(parser)
    return transform_options.read(
        parser.parse_args(["--model-dir", str(Path.cwd()), "--input", "i", "--output", "o", *words.split()])
    )


def splitter(split_type: str, single: bool = False, limit: int = LIMIT) -> Splitter:
    """One to which everything is a record, and is sent as it is."""
    return Splitter(split_type, single, limit, lambda record: True, lambda record: record)


def payloads(split: Splitter, data: bytes) -> list[Payload]:
    return list(split.payloads(io.BytesIO(data)))


def processed(words: str, data: bytes, *answers: bytes) -> bytes:
    """What is written of a file that has as many payloads as there are answers."""
    processing = Processing(options(words), 1 << 20)
    found = payloads(processing.splitter, data)
    assert len(found) == len(answers)
    return b"".join(map(processing.assemble, found, answers))


lines = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b" ") + b"\n"), max_size=20)


@given(lines, st.binary(max_size=12).map(lambda line: line.replace(b"\n", b" ")), st.booleans())
def test_payloads_are_the_file(whole: list[bytes], last: bytes, single: bool) -> None:
    data = b"".join([*whole, last])
    records = [*whole, *([last] if last else [])]
    split = splitter("Line", single)

    found = payloads(split, data)

    assert b"".join(payload.body for payload in found) == data
    assert [record.data for payload in found for record in split.records(payload)] == records
    assert [record.number for payload in found for record in split.records(payload)] == [*range(1, len(records) + 1)]
    assert all(len(payload.body) <= LIMIT for payload in found)
    if single:
        assert [payload.body for payload in found] == records
    # None could have had the first record of the next.
    for payload, following in zip(found, found[1:] if not single else []):
        assert len(payload.body) + len(next(split.records(following)).data) > LIMIT


@given(st.lists(st.binary(max_size=12), max_size=20), st.sampled_from(["RecordIO", "TFRecord"]))
def test_frames_go_on_as_they_are_together_and_without_frames_alone(records: list[bytes], split_type: str) -> None:
    data = b"".join(framed(split_type, record) for record in records)

    together, alone = splitter(split_type), splitter(split_type, single=True)

    assert b"".join(payload.body for payload in payloads(together, data)) == data
    assert [payload.body for payload in payloads(alone, data)] == records


def test_parts_of_a_record_stay_together() -> None:
    data = record_io(0, b"first") + PARTS

    (together,) = payloads(splitter("RecordIO", limit=100), data)
    alone = payloads(splitter("RecordIO", single=True), data)

    assert (together.body, together.total) == (data, 2)
    assert [payload.body for payload in alone] == [b"first", b"abcdefg"]


@given(st.lists(st.sampled_from([b"1,2\n", b"\n", b" \r\n", b"3\r\n"]), max_size=20), st.booleans())
def test_empty_lines_are_no_records_of_csv_and_count_as_lines(whole: list[bytes], single: bool) -> None:
    processing = Processing(options(CSV + (" --strategy SingleRecord" if single else "")), 9)
    records = {number: line for number, line in enumerate(whole, 1) if not line.isspace()}

    found = payloads(processing.splitter, b"".join(whole))

    assert b"".join(payload.body for payload in found) == b"".join(records.values())
    seen = [record for payload in found for record in processing.splitter.records(payload)]
    assert {record.number: record.data for record in seen} == records
    for payload in found:
        numbers = [record.number for record in processing.splitter.records(payload)]
        assert (payload.first, payload.last, payload.total) == (numbers[0], numbers[-1], len(numbers))


def test_empty_lines_take_no_room() -> None:
    processing = Processing(options(CSV), 9)

    (payload,) = payloads(processing.splitter, 100 * b"\n" + b"1,2\n")

    assert (payload.data, payload.start, payload.first, payload.last) == (b"1,2\n", 101, 101, 101)


def test_a_record_that_a_filter_makes_too_large_is_not_sent() -> None:
    processing = Processing(options(f"{CSV} --input-filter $[0,0,0]"), 9)

    (payload,) = payloads(processing.splitter, b"12\n")
    assert payload.body == b"12,12,12\n"
    with pytest.raises(Fault, match=r"^line 2: larger than --max-payload"):
        payloads(processing.splitter, b"12\n123\n")


def test_a_whole_file_is_one_payload() -> None:
    (payload,) = payloads(splitter("None"), b"a\nb\n")
    assert payload.body == b"a\nb\n"
    assert payloads(splitter("None"), b"") == []


@pytest.mark.parametrize(
    ("split_type", "data", "said"),
    [
        ("None", bytes(LIMIT + 1), "larger than --max-payload, which is .* MB; give a larger one, or a --split"),
        ("Line", b"a\n" + LIMIT * b"b" + b"\nc", "line 2: larger than --max-payload"),
        ("TFRecord", framed("TFRecord", b"a") + framed("TFRecord", bytes(LIMIT)), "record 2: larger than"),
        ("TFRecord", framed("TFRecord", b"a") + b"\xff" * 12, "record 2: larger than"),
        ("TFRecord", framed("TFRecord", b"abc")[:-1], "record 1: the file ends inside it"),
        ("TFRecord", framed("TFRecord", b"abc")[:-7], "record 1: the file ends inside it"),
        ("TFRecord", framed("TFRecord", b"a") + b"1", "record 2: the file ends inside it"),
        ("RecordIO", record_io(0, bytes(LIMIT)), "record 1: larger than"),
        ("RecordIO", record_io(0, b"a") + b"12345678", "record 2: there is no header of RecordIO"),
        ("RecordIO", record_io(2, b"a"), "record 1: there is no header of RecordIO"),
        ("RecordIO", record_io(1, b"a") + record_io(0, b"b"), "record 1: there is no header of RecordIO"),
        ("RecordIO", record_io(1, b"a"), "record 1: the file ends between its parts"),
        ("RecordIO", record_io(0, b"a")[:-1], "record 1: the file ends inside it"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_split(split_type: str, data: bytes, said: str) -> None:
    with pytest.raises(Fault, match="^" + said.replace("--", "\\-\\-")):
        payloads(splitter(split_type), data)


DOCUMENT = {"id": 1, "a": {"b c": [10, 20, 30], "d": {"e": 2}}, "l": [{"x": 1}, {"x": 2}]}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$", DOCUMENT),
        ("$.id", 1),
        ("$['id']", 1),
        ('$.a["b c"]', [10, 20, 30]),
        ("$.a['b c'][1]", 20),
        ("$.a['b c'][-1]", 30),
        ("$.a['b c'][0,-1]", [10, 30]),
        ("$.a['b c'][1:]", [20, 30]),
        ("$.a['b c'][:-1]", [10, 20]),
        ("$.a['b c'][0, 1:]", [10, 20, 30]),
        ("$['id', 'l']", {"id": 1, "l": [{"x": 1}, {"x": 2}]}),
        ("$.a.['d']", {"e": 2}),
        ("$.a.*", [[10, 20, 30], {"e": 2}]),
        ("$.l[*].x", [1, 2]),
        ("$.l[:1].x", [1]),
        ("$.l[1]['x']", 2),
    ],
)
def test_paths(path: str, expected: Any) -> None:
    assert JsonPath("--input-filter", path).select(DOCUMENT) == expected


@pytest.mark.parametrize(
    "path", ["$.b", "$['id','b']", "$.id.x", "$[0]", "$.l[2]", "$.l[-3]", "$.l[5:]", "$.id.*", "$.l.x"]
)
def test_a_path_that_leads_nowhere(path: str) -> None:
    with pytest.raises(NotSelected, match=f"^{re.escape(path)}"):
        JsonPath("--input-filter", path).select(DOCUMENT)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "$$",
        "$.",
        "$a",
        "$..a",
        "$[",
        "$[]",
        "$[a]",
        "$[1",
        "$[1,]",
        "$['a]",
        "$['a','b'].c",
        "$[?(@.a)]",
        "$ ",
    ],
)
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(UsageError, match=r"--output-filter .* is no JSONPath of the platform's; expected such as"):
        JsonPath("--output-filter", path)


@pytest.mark.parametrize(
    ("words", "data", "answers", "written"),
    [
        ("", b"ab", [b"x"], b"x"),
        ("--split-type Line --strategy SingleRecord", b"a\nb\n", [b"x", b"y\n"], b"xy\n"),
        ("--split-type Line --assemble-with Line", b"a\nb\n", [b"x"], b"x\n"),
        # One newline for each answer, whatever it is.
        ("--split-type Line --assemble-with Line --strategy SingleRecord", b"a\nb\n", [b"x\n", b""], b"x\n\n\n"),
        (f"{CSV} --join-source Input", b"a,1\r\n\nb,2", [b"3\r\n4\r\n"], b"a,1,3\nb,2,4\n"),
        (f"{CSV} --output-filter $[1]", b"1\n", [b'"a,b",c\n"d"",",e'], b"c\ne\n"),
        (f"{JSON} --join-source Input", b'{"k": 1}', [b'{"label":\n 1}'], b'{"k":1,"SageMakerOutput":{"label":1}}'),
        (f"{JSON} --join-source Input", b"[1, 2]", [b"3"], b'{"SageMakerInput":[1,2],"SageMakerOutput":3}'),
        (f"{JSON} --output-filter $.predictions", b"[1]\n[2]", [b'{"predictions": [1.50, 1e300]}'], b"[1.5,1e+300]"),
        (f"{JSON_LINES} --join-source Input", b'{"SageMakerOutput":0}', [b"1"], b'{"SageMakerOutput":1}\n'),
        (f"{JSON_LINES} --output-filter $.*", b"1", [b'{"x": "\\ud800", "y": NaN}'], b'["\\ud800",NaN]\n'),
    ],
)  # fmt: skip
def test_answers_and_records_become_what_is_written(
    words: str, data: bytes, answers: list[bytes], written: bytes
) -> None:
    assert processed(words, data, *answers) == written


@pytest.mark.parametrize(
    ("words", "data", "answer", "said"),
    [
        (f"{CSV} --join-source Input", b"a\n\nb\n", b"1", "lines 1 to 3: the answer: 1 lines for 2 records, so they"),
        (f"{CSV} --join-source Input", b"a", b"1\n2", "line 1: the answer: 2 lines for 1 records, so they cannot"),
        (f"{CSV} --output-filter $[2]", b"a", b"1,2", r"line 1: the answer: \$\[2\] is beyond the 2 values"),
        (f"{CSV} --output-filter $[2]", b"a", b'1,"2', "line 1: the answer: a quote is not closed; there can be no"),
        (f"{CSV} --input-filter $[0]", b'1\n"a\nb"\n', b"", "line 2: a quote is not closed; there can be no newline"),
        (f"{CSV} --input-filter $[1:]", b"1,2\n3\n", b"", r"line 2: --input-filter \$\[1:\] selects none of the 1"),
        (f"{JSON_LINES} --join-source Input", b"1\n2\n", b"3\nx", "line 2: joined: this is no JSON: Expecting value"),
        (f"{JSON_LINES} --input-filter $.x", b"1\n", b"", r"line 1: --input-filter \$.x finds no 'x'"),
        (f"{JSON} --input-filter $.x", 100_000 * b"[", b"", "this is no JSON: maximum recursion"),
        (f"{JSON} --output-filter $.x", b"1", b"<html>", "the answer: this is no JSON: Expecting value"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together(words: str, data: bytes, answer: bytes, said: str) -> None:
    with pytest.raises(Fault, match=f"^{said}"):
        processed(words, data, answer)


def test_numbers_and_text_come_through_a_filter() -> None:
    record = {"x": [0.1, 1e-300, 12345678901234567890, -0.0, True, None, "é\u2028\\"]}
    processing = Processing(options(f"{JSON_LINES} --input-filter $.x"), 1 << 20)

    (payload,) = payloads(processing.splitter, json.dumps(record).encode())

    assert json.loads(payload.body) == record["x"]
    assert payload.body.endswith('"é\u2028\\\\"]\n'.encode())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--max-payload 0", "--max-payload 0: expected a whole number of megabytes from 1 to 100"),
        ("--max-payload 101", "--max-payload 101: expected"),
        ("--max-concurrent 17", "--max-concurrent 17: expected a number from 1 to 16, for the platform has 100 MB in"),
        ("--max-concurrent 3 --max-payload 50", "--max-concurrent 3: expected a number from 1 to 2"),
        ("--max-concurrent 0", "--max-concurrent 0: expected"),
        ("--join-source Input", "--join-source and filters need --content-type to be text/csv, application/json or"),
        ("--join-source Input --content-type application/json", "need --accept to be"),
        ("--input-filter $.a --content-type image/png", "need --content-type to be"),
        ("--input-filter $[0] --content-type text/csv", "give --split-type Line and --assemble-with Line"),
        (f"{CSV} --input-filter $.a", "--input-filter '$.a': a line of CSV has columns and no names; expected such"),
        (f"{CSV} --output-filter $[0][1]", "--output-filter '$[0][1]': a line of CSV has columns"),
        (f"{CSV} --join-source Input --accept application/json", "join text/csv with application/json; give --acc"),
        (f"{JSON} --split-type TFRecord --join-source Input", "do not look into frames; give --split-type Line, or"),
        (f"{JSON} --split-type RecordIO --input-filter $.a", "--join-source and --input-filter do not look into"),
        (f"{JSON_LINES} --join-source Input --accept text/csv", "with text/csv; give --accept application/jsonlines"),
        ("--accept é", "--accept 'é': expected a media type, such as text/csv"),
    ],
)  # fmt: skip
def test_options_that_the_platform_would_not_take(words: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        options(words)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["TEXT/CSV; header=absent", "text/csv"])
def test_media_types_are_known_whatever_follows_them(name: str) -> None:
    assert options(CSV)._replace(content_type=name).content_kind == "text/csv"
