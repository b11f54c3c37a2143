"""What `tf-toolkit run` shows on a real pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import termios
import threading
from pathlib import Path

import pytest

from command_line import script, start, tf_toolkit
from conftest import DEADLINE, wait_until

# It holds the job at its second stage until it may go on.
DEVICE_TOOL = """#!/bin/sh
while [ ! -e "$GATE" ]; do sleep 0.02; done
echo 'GPU 0: something'
"""
BAR = b"\r 10%|#         |\r 50%|#####     |\r100%|##########|\n"
SCRIPT = f"import sys\nsys.stdout.buffer.write({BAR!r})\n"
SHOWN = b"looking at this machine"


class Terminal:
    """A terminal of 24 lines with 100 columns, and all that was written to it."""

    def __init__(self) -> None:
        self.written = b""
        self._keyboard, self.device = pty.openpty()
        fcntl.ioctl(self.device, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        # Line ends as they were written.
        attributes = termios.tcgetattr(self.device)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(self.device, termios.TCSANOW, attributes)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        # EIO: the last process has closed its end.
        try:
            while piece := os.read(self._keyboard, 65536):
                self.written += piece
        except OSError:
            pass

    def end(self) -> bytes:
        """All that was written; no process has the terminal any more."""
        os.close(self.device)
        self._reader.join(DEADLINE)
        os.close(self._keyboard)
        return self.written


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    script(tmp_path, SCRIPT)
    script(tmp_path, DEVICE_TOOL, "bin/nvidia-smi")
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    return tmp_path


def variables(desk: Path, **more: str) -> dict[str, str]:
    path = f"{desk / 'bin'}:{os.environ['PATH']}"
    return {"PATH": path, "GATE": str(desk / "gate"), "TERM": "xterm", "LANG": "C.UTF-8", **more}


def screen(written: bytes) -> list[str]:
    """The lines that a person sees, for the few control sequences that are used."""
    lines, row, column = [""], 0, 0
    for text, code in re.findall(rb"([^\x1b\r\n]+|\r|\n)|\x1b\[([0-9;?]*[A-Za-z])", written):
        if text == b"\r":
            column = 0
        elif text == b"\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif text:
            shown = text.decode()
            lines[row] = lines[row][:column].ljust(column) + shown + lines[row][column + len(shown) :]
            column += len(shown)
        elif code == b"2K":
            lines[row] = ""
        elif code.endswith(b"A"):
            row -= int(code[:-1] or 1)
        elif not re.fullmatch(rb"[0-9;]*m|\?25[lh]", code):
            raise AssertionError(f"not known here: {code!r}")
    return lines


def test_progress_is_shown_and_gone_before_the_script_begins(desk: Path) -> None:
    terminal = Terminal()
    process = start(desk, "run", "train.py", variables=variables(desk), stdout=terminal.device, stderr=terminal.device)
    wait_until(lambda: terminal.written.count(SHOWN) >= 2, "the progress is drawn")
    (desk / "gate").touch()
    assert process.wait(DEADLINE) == 0
    written = terminal.end()

    before, bar, after = written.partition(BAR)
    assert bar == BAR
    assert b"\x1b" not in after
    # The cursor is shown again, and what is on the screen is `train`'s lines only.
    assert before.rindex(b"\x1b[?25h") > before.rindex(b"\x1b[?25l")
    assert [line for line in screen(before) if line and " tf-toolkit " not in line] == []
    assert screen(before)[-1] == ""


def test_lines_on_the_way_stand_whole_above_the_progress(desk: Path) -> None:
    terminal = Terminal()
    process = start(desk, "run", "train.py", variables=variables(desk), stdout=terminal.device, stderr=terminal.device)
    wait_until(lambda: terminal.written.count(SHOWN) >= 2, "the progress is drawn")
    lines = screen(terminal.written)
    assert any(re.fullmatch(r"[\d:, -]+ tf-toolkit INFO    read: .* s\)", line) for line in lines), lines
    (desk / "gate").touch()
    process.wait(DEADLINE)
    terminal.end()


def test_a_stop_while_progress_is_shown_leaves_a_clean_terminal(desk: Path) -> None:
    terminal = Terminal()
    process = start(desk, "run", "train.py", variables=variables(desk), stdout=terminal.device, stderr=terminal.device)
    wait_until(lambda: terminal.written.count(SHOWN) >= 2, "the progress is drawn")
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == 128 + signal.SIGINT
    written = terminal.end()
    (desk / "gate").touch()

    assert written.rindex(b"\x1b[?25h") > written.rindex(b"\x1b[?25l")
    assert SHOWN.decode() not in "\n".join(screen(written))
    assert "Traceback" not in written.decode()


def test_progress_needs_no_log(desk: Path) -> None:
    terminal = Terminal()
    given = variables(desk, SM_LOG_LEVEL="40")
    process = start(desk, "run", "train.py", variables=given, stdout=terminal.device, stderr=terminal.device)
    wait_until(lambda: terminal.written.count(b"reading the job") >= 2, "the progress is drawn")
    (desk / "gate").touch()
    assert process.wait(DEADLINE) == 0
    before, bar, after = terminal.end().partition(BAR)

    assert bar == BAR
    assert b"\x1b" not in after
    assert set(screen(before)) == {""}


def test_a_job_that_ends_before_its_script_starts_leaves_a_clean_terminal(desk: Path) -> None:
    (desk / "gate").touch()
    terminal = Terminal()
    words = ["run", "train.py", "--hp", "sagemaker_mpi_enabled=maybe"]
    process = start(desk, *words, variables=variables(desk), stdout=terminal.device, stderr=terminal.device)
    assert process.wait(DEADLINE) == 78
    written = terminal.end()

    assert written.rindex(b"\x1b[?25h") > written.rindex(b"\x1b[?25l")
    assert "expected true or false" in screen(written)[-2]


def test_train_does_not_wait_for_a_tf_toolkit_that_is_gone(desk: Path) -> None:
    terminal = Terminal()
    process = start(desk, "run", "train.py", "--output", "out", variables=variables(desk), stderr=terminal.device)
    wait_until(lambda: SHOWN in terminal.written, "the progress is drawn")
    process.kill()
    process.wait(DEADLINE)
    (desk / "gate").touch()

    wait_until((desk / "out" / "output" / "success").exists, "the job succeeds without it")
    terminal.end()


def test_a_terminal_that_can_draw_nothing_gets_plain_lines(desk: Path) -> None:
    (desk / "gate").touch()
    terminal = Terminal()
    given = variables(desk, TERM="dumb")
    process = start(desk, "run", "train.py", variables=given, stdout=terminal.device, stderr=terminal.device)
    assert process.wait(DEADLINE) == 0

    written = terminal.end()
    assert BAR in written
    assert b"\x1b" not in written


def test_without_rich_all_is_plain(desk: Path) -> None:
    (desk / "gate").touch()
    script(desk, "raise ImportError('not installed')", "lib/rich/__init__.py")
    terminal = Terminal()
    given = variables(desk, PYTHONPATH=f"{desk / 'lib'}:{os.environ.get('PYTHONPATH', '')}")
    process = start(desk, "run", "train.py", variables=given, stdout=terminal.device, stderr=terminal.device)
    assert process.wait(DEADLINE) == 0
    written = terminal.end()

    assert b"\x1b" not in written
    assert BAR in written


def test_piped_output_is_the_scripts_alone_whatever_the_terminal_is_said_to_be(desk: Path) -> None:
    (desk / "gate").touch()
    forced = variables(desk, FORCE_COLOR="1", TTY_COMPATIBLE="1", TTY_INTERACTIVE="1")

    result = tf_toolkit(desk, "run", "train.py", variables=forced)

    assert result.stdout == BAR
    assert b"\x1b" not in result.stderr


def test_a_terminal_that_goes_away_does_not_end_the_job(desk: Path) -> None:
    keyboard, device = pty.openpty()
    process = start(desk, "run", "train.py", "--output", "out", variables=variables(desk), stderr=device)
    os.close(device)
    written = b""
    while SHOWN not in written:
        written += os.read(keyboard, 65536)
    os.close(keyboard)
    (desk / "gate").touch()

    assert process.wait(DEADLINE) == 0
    assert (desk / "out" / "output" / "success").exists()


def test_a_terminal_for_the_log_only(desk: Path) -> None:
    """Standard output in a pipe stays the script's alone while progress is drawn on the terminal."""
    terminal = Terminal()
    process = start(desk, "run", "train.py", variables=variables(desk), stderr=terminal.device)
    wait_until(lambda: SHOWN in terminal.written, "the progress is drawn")
    (desk / "gate").touch()
    assert process.stdout is not None
    assert process.stdout.read() == BAR
    assert process.wait(DEADLINE) == 0
    terminal.end()


@pytest.mark.parametrize(("given", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_hosts_have_colours_of_their_own_on_a_terminal_only(desk: Path, given: dict[str, str], coloured: bool) -> None:
    (desk / "gate").touch()
    script(desk, "print('trained')")
    terminal = Terminal()
    words = ("run", "train.py", "--hosts", "2")
    process = start(desk, *words, variables=variables(desk, **given), stdout=terminal.device)
    _, log = process.communicate(timeout=DEADLINE)
    written = terminal.end()

    plain = {b"[127.0.0.1] trained", b"[127.0.0.2] trained"}
    assert set(re.sub(rb"\x1b\[\d+m", b"", written).splitlines()) == plain
    colours = dict(re.findall(rb"^\x1b\[(\d+)m(\[\S+\])\x1b\[0m ", written, re.MULTILINE))
    assert len(colours) == (2 if coloured else 0)
    assert coloured or b"\x1b" not in written
    assert b"\x1b" not in log
