"""Records out of bytes, in Python: whatever the pieces that the stream comes in, and whatever is wrong with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipe import FORMATS, crc, cut, framed, record_io
from tf_toolkit.pipe_mode import framing

SIZES = st.lists(st.integers(1, 40), min_size=1)
RECORDS = st.lists(st.binary(max_size=60))


def read(record_format: str, pieces: list[bytes], may_skip: int = 0) -> tuple[list[bytes], framing.Parser]:
    parser = framing.parser(record_format, True, may_skip)
    records = [record for piece in pieces for record in parser.feed(piece)]
    return records + parser.finish(), parser


@given(st.sampled_from(FORMATS), RECORDS, SIZES)
def test_all_records_come_whole_and_in_order(record_format: str, records: list[bytes], sizes: list[int]) -> None:
    if record_format == "TextLine":
        records = [record.replace(b"\n", b"").replace(b"\x1f", b"") for record in records]
    stream = b"".join(framed(record_format, record) for record in records)

    found, parser = read(record_format, list(cut(stream, sizes)))

    assert parser.error is None
    assert found == records
    assert (parser.number, parser.offset) == (len(records), len(stream))


@given(RECORDS.filter(bool), st.data())
def test_a_record_in_parts_is_one(parts: list[bytes], data: st.DataObject) -> None:
    flags = [1, *[2] * (len(parts) - 2), 3] if len(parts) > 1 else [0]
    stream = b"".join(map(record_io, flags, parts))

    assert read("RecordIO", list(cut(stream, data.draw(SIZES))))[0] == [b"".join(parts)]


@pytest.mark.parametrize("record_format", ["RecordIO", "TFRecord"])
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=3), SIZES, st.data())
def test_a_stream_that_is_cut_gives_what_is_whole_and_an_error(
    record_format: str, records: list[bytes], sizes: list[int], data: st.DataObject
) -> None:
    frames = [framed(record_format, record) for record in records]
    ends = [0, *(sum(map(len, frames[: number + 1])) for number in range(len(frames)))]
    end = data.draw(st.integers(0, ends[-1]).filter(lambda place: place not in ends))

    found, parser = read(record_format, list(cut(b"".join(frames)[:end], sizes)))

    whole = sum(place < end for place in ends) - 1
    # A record's padding comes after it.
    assert found in (records[:whole], records[: whole + 1] if record_format == "RecordIO" else None)
    assert parser.error is not None
    assert parser.error.startswith("the stream ends inside the ")
    assert parser.offset == ends[whole]


@given(st.binary(max_size=400), st.sampled_from(FORMATS), SIZES)
def test_any_bytes_are_records_or_one_error(stream: bytes, record_format: str, sizes: list[int]) -> None:
    _, parser = read(record_format, list(cut(stream, sizes)))

    assert parser.error is None or "\n" not in parser.error


@pytest.mark.parametrize("record_format", FORMATS)
def test_an_empty_stream_has_no_records(record_format: str) -> None:
    found, parser = read(record_format, [])

    assert (found, parser.error) == ([], None)


def test_lines_keep_their_carriage_returns_and_the_last_needs_no_end() -> None:
    assert read("TextLine", [b"a\r\n\n", b"b", b"c\nd"])[0] == [b"a\r", b"", b"bc", b"d"]


WRONG = framed("TFRecord", b"bad")[:-1] + b"\0"


@pytest.mark.parametrize(
    ("good_and_bad", "may_skip", "found"),
    [("gbg", 1, b"gg"), ("gbbg", 2, b"gg"), ("gbgbg", 1, b"ggg"), ("gbbg", 1, None), ("b", 0, None)],
)
def test_records_with_a_wrong_checksum_are_left_out_as_far_as_is_allowed(
    good_and_bad: str, may_skip: int, found: bytes | None
) -> None:
    good = framed("TFRecord", b"g")
    stream = b"".join(good if kind == "g" else WRONG for kind in good_and_bad)

    records, parser = read("TFRecord", [stream], may_skip)

    if found is None:
        assert parser.error == "the checksum of the record is wrong"
    else:
        assert (b"".join(records), parser.error) == (found, None)


@pytest.mark.parametrize(
    ("record_format", "stream", "error"),
    [
        ("TFRecord", b"\0" * 12, "the checksum of the record's length is wrong"),
        ("TFRecord", b"\xff" * 8 + crc(b"\xff" * 8), "the record's length is more than any stream has"),
        ("RecordIO", b"\0" * 8, "there is no RecordIO header"),
        ("RecordIO", record_io(2, b"x"), "this is a later part of a record that has no first one"),
        ("RecordIO", record_io(1, b"x"), "the stream ends between the parts of the record"),
        *((name, b"\x1f\x8b" + b"\0" * 20, "this is a gzip stream: say compression='Gzip'") for name in FORMATS),
    ],
)
def test_what_is_wrong_is_said(record_format: str, stream: bytes, error: str) -> None:
    _, parser = read(record_format, [stream])

    assert parser.error is not None
    assert error in parser.error


def test_the_checksum_is_that_of_the_standard() -> None:
    """https://www.rfc-editor.org/rfc/rfc3720#appendix-B.4, with and without google-crc32c."""
    for data, expected in ((bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)):
        assert framing.crc32c()(data) == framing.slow_crc32c(data) == expected
