"""Feeds the framing parser with what atheris makes up: fuzz.py -runs=N -seed=N [CORPUS...]

Records that are framed right come out as they went in, wherever the stream is cut into pieces; of a stream that ends
early a beginning comes out. Of any bytes the parser makes the same in one piece and in many, and raises nothing.
"""

import sys

import atheris

with atheris.instrument_imports(include=["tf_toolkit.pipe_mode.framing"]):
    from pipe import FORMATS, crc, cut, framed, record_io
    from tf_toolkit.pipe_mode import framing

GZIP_MAGIC = b"\x1f\x8b"


def read(record_format, may_skip, pieces):
    parser = framing.parser(record_format, True, may_skip)
    records = [record for piece in pieces for record in parser.feed(piece)]
    records += parser.finish()
    return records, parser.error, parser.number, parser.offset


def make_frames(provider, record_format):
    """A record and its frames; None for it where its checksum is wrong. A RecordIO record may be in several parts."""
    record = provider.ConsumeBytes(provider.ConsumeIntInRange(0, 60))
    if record_format == "TextLine":
        record = record.translate(None, b"\n\x1f")
    choice = provider.ConsumeIntInRange(0, 3)
    if record_format == "TFRecord" and choice == 3:
        return None, framed(record_format, record)[:-4] + crc(record + b"x")
    if record_format != "RecordIO" or choice < 2:
        return record, framed(record_format, record)
    step = len(record) // choice
    begins = range(0, choice * step, step) if step else [0] * choice
    ends = [*begins[1:], len(record)]
    # What is neither first nor in the middle is last.
    flags = [1, *[2] * (choice - 2), (0, 1, 3, 7)[provider.ConsumeIntInRange(0, 3)]]
    return record, b"".join(record_io(flag, record[a:b]) for flag, a, b in zip(flags, begins, ends))


def skip(records, may_skip):
    """The records before the first that must not be left out, and whether there is one."""
    found, skipped = [], 0
    for record in records:
        skipped = skipped + 1 if record is None else 0
        if skipped > may_skip:
            return found, True
        if record is not None:
            found.append(record)
    return found, False


def run_once(data):
    provider = atheris.FuzzedDataProvider(data)
    record_format = FORMATS[provider.ConsumeIntInRange(0, len(FORMATS) - 1)]
    may_skip = provider.ConsumeIntInRange(0, 2)
    sizes = [provider.ConsumeIntInRange(1, 40) for _ in range(provider.ConsumeIntInRange(1, 4))]
    made = [make_frames(provider, record_format) for _ in range(provider.ConsumeIntInRange(0, 6))]
    records, failed = skip([record for record, _ in made], may_skip)
    stream = b"".join(frames for _, frames in made)
    kind = provider.ConsumeIntInRange(0, 2)
    if kind == 1:
        stream = stream[: provider.ConsumeIntInRange(0, len(stream))]
    if kind == 2:
        stream += (b"", GZIP_MAGIC)[provider.ConsumeIntInRange(0, 1)] + provider.ConsumeBytes(200)

    found, error, number, offset = read(record_format, may_skip, cut(stream, sizes))

    assert (found, error, number, offset) == read(record_format, may_skip, [stream]), "pieces make a difference"
    assert error is None or "\n" not in error
    if kind == 0:
        assert (found, error is not None) == (records, failed), "what went in does not come out"
        assert failed or (number, offset) == (len(made), len(stream)), "not all of the stream was read"
    elif kind == 1 and record_format != "TextLine":
        assert found == records[: len(found)], "of a cut stream other records come out"
    elif kind == 1:
        assert b"\n".join(found) == stream.removesuffix(b"\n"), "of cut lines other bytes come out"
    else:
        assert found[: len(records)] == records, "what follows a record changes it"
        assert made or not stream.startswith(GZIP_MAGIC) or error is not None, "a gzip stream is taken for records"


atheris.Setup(sys.argv, run_once)
atheris.Fuzz()
