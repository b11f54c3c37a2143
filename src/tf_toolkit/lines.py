"""Lines of ranks, kept whole on their way through mpirun.

mpirun tags what a rank wrote (``[1,3]<stdout>:``), up to 4,096 bytes at a time: it cuts lines, puts its tag in the
middle of them, and the pieces of several ranks between one another's. So each rank's own launcher (rank.py) marks
where a line ends, and the launcher above mpirun joins the pieces up to the mark.
"""

from __future__ import annotations

import re

# What no script prints by intention: the ASCII separators of records and of files.
MARK = b"\x1e"
_ESCAPE = b"\x1c"
_END = MARK + b"\n"
# A script's line that is longer is passed on as several.
LONGEST_LINE = 1 << 20
_OPENING = b"[1,mpirank:"
# mpirun's own tag: Open MPI 4 writes "[1,3]<stdout>:", 5 the same and a blank. Not what a script prints itself: the
# writer takes that apart.
_TAG = re.compile(rb"\[\d+,(\d+)\]<(stdout|stderr|stddiag)>:")
_TAG_MIDDLE = b"]<std"
# A carriage return that ends a line of its own, as a progress bar's does.
_RETURN = re.compile(rb"(?<=[^\r\n])\r(?![\r\n])")


class Marked:
    """The writer's side: one stream of one rank, in whole lines that begin with who wrote them and end with the mark.

    A carriage return ends a line too, so that a progress bar shows while it moves.
    """

    def __init__(self, rank: int, host: str, stream: str) -> None:
        self._prefix = _OPENING + f"{rank},{host}]<{stream}>:".encode("utf-8", "surrogateescape")
        self._held: list[bytes] = []
        self._size = 0
        self._returned = False

    def feed(self, chunk: bytes) -> bytes:
        """The lines that are whole now."""
        if self._returned and chunk:
            # "\r" and "\n" in two writes are one line's end.
            self._returned = False
            chunk = chunk[1:] if chunk.startswith(b"\n") else chunk
        self._held.append(chunk)
        self._size += len(chunk)
        if b"\n" not in chunk and b"\r" not in chunk and self._size < LONGEST_LINE:
            return b""
        text = b"".join(self._held)
        if b"\r" in text:
            cut = _RETURN.sub(b"\r\n", text)
            self._returned = text.endswith(b"\r") and cut.endswith(b"\n")
            text = cut
        lines, newline, rest = text.rpartition(b"\n")
        self._hold(rest)
        whole = self._marked(lines) if newline else b""
        return whole + self.flush() if self._size >= LONGEST_LINE else whole

    def flush(self) -> bytes:
        """What is left without an end, as a line."""
        rest = b"".join(self._held)
        self._hold(b"")
        return self._marked(rest) if rest else b""

    def _hold(self, rest: bytes) -> None:
        self._held = [rest] if rest else []
        self._size = len(rest)

    def _marked(self, lines: bytes) -> bytes:
        text = lines.replace(_ESCAPE, _ESCAPE + b"0").replace(MARK, _ESCAPE + b"1")
        text = text.replace(_TAG_MIDDLE, b"]" + _ESCAPE + b"2std")
        return self._prefix + text.replace(b"\n", _END + self._prefix) + _END


def _unescaped(line: bytes) -> bytes:
    if _ESCAPE not in line:
        return line
    return line.replace(_ESCAPE + b"2", b"<").replace(_ESCAPE + b"1", MARK).replace(_ESCAPE + b"0", _ESCAPE)


class Lines:
    """The reader's side: one of mpirun's two streams, with its tags taken away and the ranks' lines whole again.

    What mpirun and its daemons say themselves passes unchanged.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._pieces: dict[tuple[bytes, bytes], list[bytes]] = {}
        # Whether a blank follows mpirun's tag; known from the first on.
        self._blank: bool | None = None

    def feed(self, chunk: bytes) -> bytes:
        """The lines that are whole now."""
        if b"\n" not in chunk:
            self._rest += chunk
            return b""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        whole: list[bytes] = []
        for line in lines:
            self._read(line, whole)
        return b"".join(whole)

    def flush(self) -> bytes:
        """What is left, at the end of the stream."""
        whole: list[bytes] = []
        if self._rest:
            self._read(self._rest, whole)
            self._rest = b""
        for pieces in self._pieces.values():
            if pieces:
                whole += [_unescaped(b"".join(pieces)), b"\n"]
        self._pieces.clear()
        return b"".join(whole)

    def _read(self, line: bytes, whole: list[bytes]) -> None:
        before, *tagged = _TAG.split(line)
        if before or not tagged:
            # mpirun's own words; or a rank's whole line, where an option of the user's has left no tags.
            whole += [_unescaped(before[:-1]) if before.endswith(MARK) else before, b"\n"]
        for start in range(0, len(tagged), 3):
            rank, stream, text = tagged[start : start + 3]
            if self._blank is None and _OPENING in text[: len(_OPENING) + 1]:
                self._blank = text.startswith(b" ")
            self._add(rank, stream, text[1:] if self._blank else text, whole)

    def _add(self, rank: bytes, stream: bytes, text: bytes, whole: list[bytes]) -> None:
        pieces = self._pieces.setdefault((rank, stream), [])
        if not pieces and not text.startswith(_OPENING):
            if not text:
                # Of a line that was cut between its mark and its end.
                return
            if not _OPENING.startswith(text):
                # Not from the rank's script: its launcher could not start.
                whole += [b"[1,%s]<%s>:" % (rank, stream), text, b"\n"]
                return
        if not text.endswith(MARK):
            pieces.append(text)
            return
        pieces.append(text[:-1])
        whole += [_unescaped(b"".join(pieces)), b"\n"]
        pieces.clear()
