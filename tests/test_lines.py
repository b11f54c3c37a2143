"""Lines of ranks: any bytes, cut and mixed as mpirun does it, come out whole and in order for each rank."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_toolkit.lines import LONGEST_LINE, MARK, Lines, Marked

HOSTS = ["algo-1", "algo-1", "algo-2"]
# Bytes that could be taken for the framing's own, or for mpirun's.
HOSTILE = [
    b"\n",
    b"\r",
    b"\r\n",
    b" ",
    b"\x1e",
    b"\x1c",
    b"\x1c0",
    b"[1,0]<stdout>:",
    b"[1,2]<stdout>: ",
    b"[1,mpirank:0,algo-1]<stdout>:",
    b"]<std",
    b"[1,",
    b"\xff\x00",
    b"text",
    b"1" * 40,
]
STREAMS = st.lists(st.lists(st.sampled_from(HOSTILE) | st.binary(max_size=6), max_size=40), min_size=3, max_size=3)

# How mpirun passes on what a rank wrote, a piece at a time.
Mpirun = Callable[[int, bytes], bytes]


def mpirun_4(rank: int, piece: bytes) -> bytes:
    """Open MPI 4.1: a tag before each piece and after each newline within it."""
    tag = b"[1,%d]<stdout>:" % rank
    return tag + re.sub(rb"\n(?!\Z)", b"\n" + tag, piece, flags=re.DOTALL)


def mpirun_ending_pieces(rank: int, piece: bytes) -> bytes:
    """The same, with a newline added to a piece that ends in the middle of a line."""
    tagged = mpirun_4(rank, piece)
    return tagged if tagged.endswith(b"\n") else tagged + b"\n"


class Mpirun5:
    """Open MPI 5: whole lines, a tag with a blank before each."""

    def __init__(self) -> None:
        self.held = [b"", b"", b""]

    def __call__(self, rank: int, piece: bytes) -> bytes:
        lines, newline, self.held[rank] = (self.held[rank] + piece).rpartition(b"\n")
        tag = b"[1,%d]<stdout>: " % rank
        return tag + lines.replace(b"\n", b"\n" + tag) + b"\n" if newline else b""


def same_line_ends(stream: bytes) -> bytes:
    """A line may end in a carriage return, alone or with a newline."""
    return stream.replace(b"\r\n", b"\r")


def pieces_of(data: bytes, cuts: random.Random, longest: int) -> Iterator[bytes]:
    while data:
        size = cuts.randint(1, longest)
        yield data[:size]
        data = data[size:]


@given(STREAMS, st.integers(0, 1 << 32), st.sampled_from(["4", "ends pieces", "5"]))
def test_every_rank_s_lines_come_whole_and_in_order(parts: list[list[bytes]], seed: int, version: str) -> None:
    cuts = random.Random(seed)
    versions: dict[str, Mpirun] = {"4": mpirun_4, "ends pieces": mpirun_ending_pieces, "5": Mpirun5()}
    mpirun = versions[version]
    waiting = []
    for rank, writes in enumerate(parts):
        marked = Marked(rank, HOSTS[rank], "stdout")
        written = b"".join([*(marked.feed(write) for write in writes), marked.flush()])
        waiting.append(list(pieces_of(written, cuts, 50)))
    passed_on = b""
    while any(waiting):
        rank = cuts.choice([rank for rank, pieces in enumerate(waiting) if pieces])
        passed_on += mpirun(rank, waiting[rank].pop(0))
    lines = Lines()
    out = b"".join([*(lines.feed(piece) for piece in pieces_of(passed_on, cuts, 80)), lines.flush()])

    found = [b"", b"", b""]
    for line in re.findall(rb"[^\n]*\n", out):
        opening = re.match(rb"\[1,mpirank:(\d),(algo-\d)\]<stdout>:", line)
        assert opening and opening[2].decode() == HOSTS[int(opening[1])]
        found[int(opening[1])] += line[opening.end() :]
    for stream, writes in zip(found, parts):
        written = b"".join(writes)
        end = b"" if written.endswith((b"\n", b"\r")) or not written else b"\n"
        assert same_line_ends(stream) == same_line_ends(written + end)


def test_what_mpirun_says_itself_passes_unchanged() -> None:
    said = (
        b" Data for JOB [11266,1] offset 0 Total slots allocated 2\n"
        b"\n \tProcess OMPI jobid: [11266,1] App: 0\n"
        b"[vm:12345] [[1,0],0] ORTE_ERROR_LOG: Not found\nno end"
    )
    lines = Lines()
    assert lines.feed(said) + lines.flush() == said + b"\n"


@pytest.mark.parametrize("blank", [b"", b" "])
def test_a_rank_that_could_not_start_is_still_heard(blank: bytes) -> None:
    lines = Lines()
    said = b"[1,2]<stderr>:" + blank + b"python: No module named tf_toolkit\n"
    assert lines.feed(said) == said
    assert lines.feed(b"[1,0]<stderr>:" + blank + b"[1,mpirank:0,h]<stderr>:on" + MARK + b"\n").endswith(b">:on\n")


def test_whole_lines_are_read_where_an_option_left_no_tags() -> None:
    lines = Lines()
    assert lines.feed(Marked(0, "h", "stdout").feed(b"a \x1c b\n")) == b"[1,mpirank:0,h]<stdout>:a \x1c b\n"


def test_a_line_without_end_is_passed_on_in_parts() -> None:
    marked = Marked(0, "h", "stdout")
    parts = [marked.feed(b"x" * 100_000) for _ in range(25)]
    assert sum(part.count(MARK) for part in parts) == 2
    assert len(marked.flush()) < LONGEST_LINE


def test_a_line_comes_as_soon_as_it_is_whole() -> None:
    marked, lines = Marked(3, "algo-2", "stderr"), Lines()
    assert lines.feed(b"[1,3]<stderr>:" + marked.feed(b" 10%\r")) == b"[1,mpirank:3,algo-2]<stderr>: 10%\r\n"
    assert lines.feed(b"[1,3]<stderr>:" + marked.feed(b" 20%\r\n")) == b"[1,mpirank:3,algo-2]<stderr>: 20%\r\n"


def test_it_is_fast() -> None:
    """Both sides together pass some 200,000 lines a second; a tenth of that here, for a loaded machine."""
    marked, lines = Marked(1, "algo-1", "stdout"), Lines()
    text = b"".join(b"step %d loss 0.123 accuracy 0.9\n" % number for number in range(100_000))
    started = time.process_time()
    passed_on = b"".join(mpirun_4(1, marked.feed(text[start : start + 4096])) for start in range(0, len(text), 4096))
    read = b"".join(lines.feed(passed_on[start : start + 4096]) for start in range(0, len(passed_on), 4096))
    seconds = time.process_time() - started
    assert read.count(b"\n") == 100_000
    assert seconds < 5, seconds
