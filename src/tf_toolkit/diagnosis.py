"""Why a process ended: found in the last of its standard error by structure, never by a word such as "Error".

Two facts about CPython carry the weight. The traceback of an uncaught exception begins where the program did, in
``<module>``; that of a handled one begins in the function that handled it, and that of a thread in the thread. And an
uncaught exception ends the process with status 1, or by SIGINT if it is KeyboardInterrupt.
Formats: https://docs.python.org/3/library/traceback.html and https://docs.python.org/3/library/faulthandler.html.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from typing import NamedTuple

from tf_toolkit.contract import SIGNAL_BASE
from tf_toolkit.process import Exit
from tf_toolkit.stderr import LOST

MESSAGE_LENGTH = 300
TEXT_LENGTH = 4000
# Limits that keep the work proportional to the input, whatever stands in it.
_LINE_LENGTH = 2000
_SYNTAX_ERROR_LINES = 8
_NOTICE_LINES = 30
# A line further from the end than so many others is no last word.
_LAST_LINES = 20

_HEADER = "Traceback (most recent call last):"
_GROUP_HEADER = "Exception Group Traceback (most recent call last):"
_GROUP_FOOT = "    +------------------------------------"
# Open MPI puts its own notices between two of these.
_RULER = "-" * 74
_GAP = LOST.decode()
_UNCAUGHT_ROOTS = frozenset({"<module>", "_run_module_as_main", ""})
# Colours, which Python 3.13 prints where FORCE_COLOR is set, and other bytes that a terminal does not show.
_INVISIBLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# mpirun's --tag-output: "[1,0]<stderr>:", and a blank after it from Open MPI 5 on.
_RANK = re.compile(r"\[([\w.@,:-]{1,80})\]<std(?:err|out|diag)>: ?")
# Python writes a comma before "in", faulthandler none; the place of a SyntaxError has no "in".
_FRAME = re.compile(r'\s+File "(.+?)", line (\d+)(?:,? in (.*))?$')
_GROUP_BORDER = re.compile(r"\s*\+(-\+)?-{16}")
_GROUP_MARGIN = re.compile(r"^\s*[|+] ?")
_CHAIN = re.compile(r"(?:During handling of the above exception|The above exception was the direct cause).*:$")
# A progress bar that ends in "]" may stand before what a dying process writes.
_NATIVE = re.compile(
    r"(?:.*\])?(?P<fatal>Fatal Python error: .+)"
    r"|(?:.*\])?(?P<terminate>terminate called (?:after throwing an instance of '(?P<type>.+)'|.+))"
    r"|(?:[\d-]+ [\d:.]+: )?F(?:\d{4} [\d:.]+ +\d+)? (?P<source>[\w./+-]+:\d+)\] (?P<check>.+)"
)
_WHAT = re.compile(r"\s+what\(\): +(.+)")
# TensorFlow's and absl's lines: information and warnings, and what the C++ code calls an error but lives on after.
_LIBRARY_LOG = re.compile(
    r"(?:[\d-]+ [\d:.]+: )?(?:[IWE](?:\d{4} [\d:.]+ +\d+)? \S+\.(?:cc|cu|h)|[IW]\d{4} [\d:.]+ +\d+ \S+):\d+\] "
)
_ANNOUNCEMENT = re.compile(r"Exception in thread |Exception ignored |Error in atexit|Process \S+:$")
# What is printed while a process goes down: neither the cause, nor part of the message above it.
_NOISE = re.compile(
    rf"{_LIBRARY_LOG.pattern}|{_ANNOUNCEMENT.pattern}"
    r"|[\d\s:,./TZ\[\]+-]{0,40}(?:[\w.]{1,60}\s(?:- )?)?\W?(?:DEBUG|INFO|WARN|WARNING)\b"
    r"|.+?:\d+: \w*Warning: "
    r"|\[[A-Za-z][\w.-]*:\d+\] |\[\.\.\.\]$"
)
_WORD = re.compile(r"\w")
# TensorFlow's names for places in its graph; they stay in the text.
_GRAPH_PLACE = re.compile(r"\{\{function_node [^}]{1,500}\}\} ?|\[\[\{\{node .{1,500}")
_LIBRARY = re.compile(r"<|(?:.*/)?(?:site-packages|dist-packages|lib/python3[^/]*)/")


class Cause(NamedTuple):
    # One line: "ValueError: bad learning rate", or the last that was printed, or nothing.
    message: str
    # "train.py, line 12, in fit": the innermost frame in the code directory, else the innermost.
    place: str | None
    # The evidence: the traceback, or the last lines; at most TEXT_LENGTH characters.
    text: str


def find_cause(exit: Exit) -> Cause:
    """The cause of death in what is kept of a process's standard error. Never raises, whatever the bytes are."""
    stream = _first_to_fail(_lines(exit.stderr), exit)
    report = stream.ending(exit)
    if report is None:
        last = stream.reports[-1] if stream.reports else None
        return Cause(_one_line(stream.last_words(exit)), None, _evidence(stream, last, leads=False))
    return Cause(_one_line(report.message), _place(report.frames, exit.spec.cwd), _evidence(stream, report, leads=True))


class _Frame(NamedTuple):
    file: str
    line: str
    function: str


class _Report(NamedTuple):
    """An account of a failure, in the lines from ``start`` to before ``end``; its innermost frame is the last."""

    start: int
    end: int
    message: str
    frames: tuple[_Frame, ...]
    # Written by a process as it died, and not one of Python's exceptions.
    native: bool = False
    # The message of the first exception of a chain.
    first: str = ""

    def is_uncaught(self, status: int) -> bool:
        """Whether this ended a process, by the process's status."""
        if self.native:
            return status > SIGNAL_BASE
        interrupted = status == SIGNAL_BASE + signal.SIGINT and self.message.startswith("KeyboardInterrupt")
        return (status == 1 or interrupted) and bool(self.frames) and self.frames[0].function in _UNCAUGHT_ROOTS


class _Stream:
    """What one process wrote: the reports in it, and the numbers of the lines that are plain and that are noise."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines
        self.reports: list[_Report] = []
        self.plain: list[int] = []
        self.noise: list[int] = []
        self.notices: list[str] = []
        chained = quiet = False
        number = 0
        while number < len(lines):
            line = lines[number]
            end = number
            if report := _report_at(lines, number):
                self._add(report, chained)
                chained, quiet, end = False, False, report.end
            elif _CHAIN.match(line):
                chained = True
            elif (end := _noise_end(lines, number)) > number or (quiet and line[:1].isspace()):
                quiet = True
                self.noise.append(number)
                if end - number > 2 and line.strip() == _RULER:
                    self.notices.append(" ".join(lines[number + 1 : end - 1]))
            elif _WORD.search(line):
                quiet = False
                self.plain.append(number)
            number = max(end, number + 1)

    def _add(self, report: _Report, chained: bool) -> None:
        earlier = self.reports[-1] if self.reports else None
        if earlier and (chained or (report.native and not self._plain_after(earlier.end))):
            report = report._replace(start=earlier.start, first=earlier.first or earlier.message)
        self.reports.append(report)

    def _plain_after(self, number: int) -> bool:
        return bool(self.plain) and self.plain[-1] >= number

    def uncaught(self, exit: Exit) -> _Report | None:
        return next((report for report in reversed(self.reports) if report.is_uncaught(exit.status)), None)

    def ending(self, exit: Exit) -> _Report | None:
        """The report that tells why the process ended; None where it said something else afterwards."""
        report = self.uncaught(exit)
        if report is None:
            # Printed by the program itself, which then gave up without another word.
            last = self.reports[-1] if self.reports and exit.status < SIGNAL_BASE else None
            return None if last is None or self._plain_after(last.end) else last
        if report.native:
            return report
        # What follows at once is the rest of its message: those of TensorFlow and Keras span many lines, and that of
        # a tf.py_function holds a traceback of its own, nearer to the cause. A handled traceback from the top level and
        # the words of a sys.exit() after it read the same, so that message then holds both.
        stop = next((number for number in self.noise if number >= report.end), len(self.lines))
        if self._plain_after(stop) and self.lines[stop] != _GAP.strip():
            return None
        message = " ".join([report.message, *(self.lines[number] for number in self.plain if number >= report.end)])
        within = [frame for other in self.reports if report.end <= other.start < stop for frame in other.frames]
        return report._replace(message=message, frames=(*report.frames, *within), end=stop)

    def last_words(self, exit: Exit) -> str:
        """The last line that says something, with the one that it is indented under."""
        last = [number for number, line in enumerate(self.lines) if _WORD.search(line)][-_LAST_LINES:]
        spoken = sorted(set(last).intersection(self.plain))
        if self.notices and (exit.status > SIGNAL_BASE or not spoken):
            return self.notices[-1]
        end = start = (spoken or last or [0])[-1]
        while start > 0 and end - start < _LAST_LINES and self.lines[start][:1].isspace():
            start -= 1
        return " ".join(self.lines[start : end + 1])


def _lines(stderr: bytes) -> list[tuple[str, str]]:
    """Its lines as a terminal would show them last, each after the rank that Open MPI's tag names."""
    head, gap, tail = _INVISIBLE.sub("", stderr.decode("utf-8", "replace")).partition(_GAP)
    if gap:
        # The lines beside what the supervisor left out are cut.
        head, tail = head.rpartition("\n")[0], tail.partition("\n")[2]
    lines = []
    for line in f"{head}{gap}{tail}".split("\n"):
        tag = _RANK.match(line)
        shown = line[tag.end() if tag else 0 :].rstrip("\r\t ").rpartition("\r")[2]
        lines.append((tag[1] if tag else "", _cut(shown, _LINE_LENGTH)))
    return lines


def _first_to_fail(lines: Sequence[tuple[str, str]], exit: Exit) -> _Stream:
    """The rank whose end began first, alone, for ranks write between one another's lines; else all of them."""
    ranks: dict[str, list[int]] = {}
    for number, (rank, _) in enumerate(lines):
        ranks.setdefault(rank, []).append(number)
    ended = []
    for rank, numbers in ranks.items():
        stream = _Stream([lines[number][1] for number in numbers])
        if report := stream.uncaught(exit):
            ended.append((numbers[report.start], rank, stream))
    return min(ended)[2] if ended else _Stream([text for _, text in lines])


def _report_at(lines: Sequence[str], number: int) -> _Report | None:
    line = lines[number]
    if line.endswith(_GROUP_HEADER):
        return _group(lines, number)
    if line.endswith(_HEADER):
        return _traceback(lines, number, number + 1, len(lines))
    if (frame := _FRAME.match(line)) and frame[3] is None:
        return _traceback(lines, number, number, min(number + _SYNTAX_ERROR_LINES, len(lines)))
    native = _NATIVE.match(line)
    return _native(lines, number, native) if native else None


def _traceback(lines: Sequence[str], start: int, first: int, limit: int) -> _Report | None:
    """From its header, or from a SyntaxError's place, which has none, to the exception: the next line not indented."""
    frames = []
    foreign = False
    for number in range(first, limit):
        line = lines[number]
        if line.endswith(_HEADER):
            # TensorFlow's threads write tracebacks between other lines, with a blank line after the header.
            foreign = number + 1 < limit and not lines[number + 1]
            if not foreign:
                return None
        elif frame := _frame(line):
            frames += [] if foreign else [frame]
        elif not _WORD.match(line[:1]) or _LIBRARY_LOG.match(line):
            continue
        elif foreign:
            foreign = False
        else:
            return _Report(start, number + 1, line, tuple(frames))
    return None


def _frame(line: str) -> _Frame | None:
    match = _FRAME.match(line)
    return _Frame(match[1], match[2], match[3] or "") if match else None


def _group(lines: Sequence[str], start: int) -> _Report:
    """An ExceptionGroup, to the foot of its drawing; the message names the first exception in it that is no group."""
    end = start + 1
    while end < len(lines) and lines[end - 1] != _GROUP_FOOT:
        end += 1
    sections: list[list[str]] = [[]]
    first = None
    for line in lines[start:end]:
        if not (border := _GROUP_BORDER.match(line)):
            sections[-1].append(_GROUP_MARGIN.sub("", line))
            continue
        if first is None and len(sections) > 1 and border[1] is None:
            first = sections[-1]
        sections.append([])
    group, leaf = _section(sections[0]), _section(first or sections[-1])
    return _Report(start, end, f"{group.message}, first: {leaf.message}", group.frames + leaf.frames)


def _section(lines: Sequence[str]) -> _Report:
    """The exception in one section of a group: the last of a chain, with all lines of its message."""
    first = next((number + 1 for number in reversed(range(len(lines))) if lines[number].endswith(_HEADER)), 0)
    report = _traceback(lines, 0, first, len(lines))
    return (
        report._replace(message=" ".join([report.message, *lines[report.end :]])) if report else _Report(0, 0, "", ())
    )


def _native(lines: Sequence[str], start: int, match: re.Match[str]) -> _Report:
    """What a dying process wrote, with faulthandler's stacks: to the end, or to another process's traceback."""
    end = next((number for number in range(start + 1, len(lines)) if lines[number].endswith(_HEADER)), len(lines))
    message = match["fatal"] or match["terminate"] or f"{match['check']} ({match['source']})"
    if match["type"]:
        message = f"{match['type']}: {next((what[1] for line in lines[start:end] if (what := _WHAT.match(line))), '')}"
    elif message == "Fatal Python error: Aborted" and start and lines[start - 1]:
        # Whoever aborts says why just before: the C library, an assertion.
        start, message = start - 1, f'{message}, after "{lines[start - 1]}"'
    return _Report(start, end, message, _dead_thread(lines[start:end]), native=True)


def _dead_thread(lines: Sequence[str]) -> tuple[_Frame, ...]:
    """The stack that faulthandler calls the current thread's, else the first; it prints the innermost frame first."""
    stacks: list[tuple[bool, list[_Frame]]] = [(False, [])]
    for line in lines:
        if line.endswith("(most recent call first):"):
            stacks.append((line.startswith("Current thread"), []))
        elif frame := _frame(line):
            stacks[-1][1].append(frame)
    return tuple(reversed(max(stacks, key=lambda stack: (bool(stack[1]), stack[0]))[1]))


def _noise_end(lines: Sequence[str], number: int) -> int:
    """The end of the noise that begins at a line; the line itself where none does."""
    line = lines[number]
    if line.strip() == _RULER:
        limit = min(number + _NOTICE_LINES, len(lines))
        return next((end + 1 for end in range(number + 1, limit) if lines[end].strip() == _RULER), number + 1)
    if line.startswith("Exception ignored ") and number + 1 < len(lines):
        # With a traceback, or with the exception alone.
        ignored = _report_at(lines, number + 1)
        return ignored.end if ignored else number + 2
    return number + 1 if _NOISE.match(line) else number


def _place(frames: Sequence[_Frame], code: str) -> str | None:
    """The innermost frame in the code directory, else outside libraries, else of all."""
    root = os.path.normpath(code).rstrip("/") + "/"
    places = []
    for frame in reversed(frames):
        path = os.path.normpath(root + frame.file) if frame.file[:1] not in "/<" else frame.file
        own = path.startswith(root)
        name = path[len(root) :] if own else path
        function = "" if frame.function in _UNCAUGHT_ROOTS else f", in {frame.function}"
        places.append((not _LIBRARY.match(name), own, f"{name}, line {frame.line}{function}"))
    # max() takes the first of equals: the innermost.
    return max(places, key=lambda place: place[:2])[2] if places else None


def _evidence(stream: _Stream, report: _Report | None, leads: bool) -> str:
    """A traceback that leads stands alone; one that does not is followed by the last lines."""
    lines = stream.lines
    start, end = (report.start, report.end) if report else (0, 0)
    if start and _ANNOUNCEMENT.match(lines[start - 1]):
        start -= 1
    block = "\n".join(lines[start:end]).rstrip()
    if report and report.first:
        block = f"first of a chain: {_one_line(report.first)}\n{block}"
    if leads:
        return _cut(block, TEXT_LENGTH, _GAP)
    block = _cut(block, TEXT_LENGTH // 2, _GAP)
    rest = "\n".join(lines[end:]).strip("\n")
    return f"{block}\n{rest[len(block) + 1 - TEXT_LENGTH :]}".strip("\n")


def _one_line(text: str) -> str:
    return _cut(" ".join(_GRAPH_PLACE.sub("", text).split()), MESSAGE_LENGTH)


def _cut(text: str, length: int, mark: str = "...") -> str:
    """At most ``length`` characters; two thirds of them from the end, where long messages come to the point."""
    if len(text) <= length:
        return text
    head = length // 3
    return text[:head] + mark + text[head + len(mark) - length :]
