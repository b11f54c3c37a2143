"""Real ranks behind a real door: what they start, pass on, forward and say."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import door as doors
from conftest import DEADLINE, wait_until
from door import Door
from test_hardware import is_running
from tf_toolkit.contract import DOOR
from tf_toolkit.lines import Lines

HOSTILE = ["", "a b", "it's", '"', "$(touch /tmp/owned)", "line\nbreak", ":", "-mca", "--help", "é\udcff"]


def rank(door: Door, number: int = 3, **options: Any) -> subprocess.Popen[bytes]:
    environ = {**os.environ, DOOR: str(door.path), "PMIX_RANK": str(number), "SM_CURRENT_HOST": "algo-2"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    command = [sys.executable, "-E", "-m", "tf_toolkit.rank"]
    return subprocess.Popen(command, env=environ, cwd="/", start_new_session=True, **pipes)


def python(code: str, *arguments: str) -> Sequence[str]:
    return [sys.executable, "-c", code, *arguments]


def lines(stream: bytes) -> list[bytes]:
    """What the first host's launcher makes of a stream, without who wrote it."""
    reader = Lines()
    text = reader.feed(stream) + reader.flush()
    return [line.partition(b">:")[2] for line in text.splitlines()]


def pid_in(path: Path) -> int:
    return int(wait_until(lambda: path.exists() and path.read_text(), f"{path} is written"))


def writes_pid(path: Path) -> str:
    """Code that writes its process's number, whole."""
    return f"import os; open({str(path)!r} + '.new', 'w').write(str(os.getpid())); " + (
        f"os.replace({str(path)!r} + '.new', {str(path)!r}); "
    )


def test_a_script_s_command_output_and_end(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv[1:], os.getcwd()); print('err', file=sys.stderr); print(dict(os.environ))"
    with doors.opened(python(code, *HOSTILE), str(tmp_path)) as door:
        status, stdout, stderr = doors.finished(rank(door))
        assert status == 0
        assert stdout.startswith(b"[1,mpirank:3,algo-2]<stdout>:")
        assert lines(stdout)[0].decode() == f"{HOSTILE} {tmp_path}"
        assert lines(stderr) == [b"err"]
        assert b"SM_CURRENT_HOST" in lines(stdout)[1]
        assert DOOR.encode() not in lines(stdout)[1]
        assert door.end_of(3)["status"] == 0


def test_a_failed_script_s_rank_waits_for_leave() -> None:
    code = "import sys; print('last words', file=sys.stderr); sys.exit(7)"
    with doors.opened(python(code)) as door:
        process = rank(door)
        end = door.end_of(3)
        assert (end["status"], end["signal"], end["told"]) == (7, None, False)
        assert base64.b64decode(end["stderr"]) == b"last words\n"
        # The daemon's own TERM is no reason to go.
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        assert process.returncode is None
        door.say(3, type="leave")
        assert doors.finished(process)[0] == 7


def test_a_failed_script_s_rank_ends_with_the_daemon_above_it(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    starts = (
        f"import subprocess, sys; rank = subprocess.Popen([sys.executable, '-E', '-m', 'tf_toolkit.rank']);"
        f"open({str(file)!r} + '.new', 'w').write(str(rank.pid)); import os;"
        f"os.replace({str(file)!r} + '.new', {str(file)!r}); rank.wait()"
    )
    with doors.opened(python("raise SystemExit(3)")) as door:
        environ = {**os.environ, DOOR: str(door.path), "PMIX_RANK": "3"}
        daemon = subprocess.Popen(python(starts), env=environ)
        pid = pid_in(file)
        assert door.end_of(3)["status"] == 3
        assert is_running(pid)
        daemon.kill()
        daemon.wait()
        wait_until(lambda: not is_running(pid), "the rank is gone")


def test_a_script_that_is_killed() -> None:
    with doors.opened(python("import os; os.kill(os.getpid(), 9)")) as door:
        process = rank(door)
        end = door.end_of(3)
        assert (end["status"], end["signal"], end["told"]) == (137, 9, False)
        door.say(3, type="leave")
        assert doors.finished(process)[0] == 137


def test_a_script_that_cannot_be_started() -> None:
    with doors.opened(["/nowhere/train.sh"]) as door:
        process = rank(door)
        end = door.end_of(3)
        assert end["status"] == 126
        assert b"/nowhere/train.sh cannot be started" in base64.b64decode(end["stderr"])
        door.say(3, type="leave")
        assert b"cannot be started" in doors.finished(process)[2]


@pytest.mark.parametrize("by_daemon", [True, False])
def test_term_is_forwarded_and_its_death_is_told(tmp_path: Path, by_daemon: bool) -> None:
    file = tmp_path / "pid"
    with doors.opened(python(writes_pid(file) + "import time; time.sleep(600)")) as door:
        process = rank(door)
        pid_in(file)
        if by_daemon:
            process.terminate()
        else:
            door.say(3, type="signal", number=int(signal.SIGTERM))
        end = door.end_of(3)
        assert (end["status"], end["signal"], end["told"]) == (143, 15, True)


def test_a_script_may_end_well_when_told(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(print('saved')));"
        + writes_pid(file)
        + "time.sleep(600)"
    )
    with doors.opened(python(code)) as door:
        process = rank(door)
        pid_in(file)
        door.say(3, type="signal", number=int(signal.SIGTERM))
        status, stdout, _ = doors.finished(process)
        assert (status, lines(stdout)) == (0, [b"saved"])


def test_an_exception_that_was_out_before_term_is_the_cause(tmp_path: Path) -> None:
    """Its clean-up takes long; meanwhile others, whom it took down, had all told to end."""
    file = tmp_path / "pid"
    code = f"import atexit, time; atexit.register(lambda: exec({writes_pid(file)!r} + 'time.sleep(600)', globals()))\n"
    with doors.opened(python(code + "raise ValueError('bad')")) as door:
        process = rank(door)
        pid_in(file)
        process.terminate()
        end = door.end_of(3)
        assert (end["status"], end["signal"], end["told"]) == (1, None, False)
        assert 0 < end["age"] < DEADLINE
        assert b"ValueError: bad" in base64.b64decode(end["stderr"])


def test_a_handled_exception_is_not(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = f"""
import time, traceback
def fit():
    try:
        raise ValueError("handled")
    except ValueError:
        traceback.print_exc()
fit()
{writes_pid(file)}
time.sleep(600)
"""
    with doors.opened(python(code)) as door:
        process = rank(door)
        pid_in(file)
        process.terminate()
        end = door.end_of(3)
        assert (end["status"], end["told"]) == (143, True)


def test_age_is_that_of_the_exception() -> None:
    code = "import atexit, time; atexit.register(time.sleep, 1.0)\nraise ValueError('bad')"
    with doors.opened(python(code)) as door:
        rank(door, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert 0.9 < door.end_of(3)["age"] < DEADLINE
        door.say(3, type="leave")


@pytest.mark.parametrize("way", ["launcher gone", "rank killed", "leave"])
def test_the_script_dies_with_its_launcher_and_with_its_rank(tmp_path: Path, way: str) -> None:
    file = tmp_path / "pid"
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); " + writes_pid(file) + "time.sleep(600)"
    with doors.opened(python(code)) as door:
        process = rank(door)
        pid = pid_in(file)
        if way == "launcher gone":
            door.close()
        elif way == "leave":
            door.say(3, type="leave")
        else:
            process.kill()
        status = doors.finished(process)[0]
        assert status == (-9 if way == "rank killed" else 1)
        wait_until(lambda: not is_running(pid), "the script is gone")


def test_what_a_script_left_running_holds_nobody_up(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    left = writes_pid(file) + "import time; time.sleep(600)"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {left!r}]); print('done')"
    with doors.opened(python(code)) as door:
        started = time.monotonic()
        process = rank(door)
        end = door.end_of(3)
        assert end["status"] == 0
        assert process.wait(DEADLINE) == 0
        assert time.monotonic() - started < 30
        os.kill(pid_in(file), signal.SIGKILL)


def test_much_output_through_a_terminal_and_a_reader_that_goes(tmp_path: Path) -> None:
    """Open MPI's daemons give their ranks a terminal."""
    import pty
    import termios
    import threading

    leader, follower = pty.openpty()
    modes = termios.tcgetattr(follower)
    modes[1] &= ~termios.OPOST
    modes[3] &= ~termios.ECHO
    termios.tcsetattr(follower, termios.TCSANOW, modes)
    read: list[bytes] = []

    def reads() -> None:
        with contextlib.suppress(OSError):
            while sum(map(len, read)) < 200_000:
                read.append(os.read(leader, 4096))
        os.close(leader)

    reader = threading.Thread(target=reads)
    reader.start()
    with doors.opened(python("for n in range(100_000): print('line', n)")) as door:
        process = rank(door, stdout=follower)
        os.close(follower)
        assert process.wait(DEADLINE) == 0
    reader.join(DEADLINE)
    assert lines(b"".join(read))[:-1] == [b"line %d" % n for n in range(len(lines(b"".join(read))) - 1)]


def test_without_a_launcher(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != DOOR}
    command = [sys.executable, "-m", "tf_toolkit.rank"]
    alone = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert alone.returncode == 1
    assert DOOR in alone.stderr
    environ = {**environ, DOOR: str(tmp_path / "none"), "OMPI_COMM_WORLD_RANK": "0"}
    gone = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (gone.returncode, gone.stderr) == (1, "")
