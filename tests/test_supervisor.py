"""Real processes under the supervisor: what passes through, what is forwarded, what is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import DEADLINE, wait_until
from test_hardware import is_running
from tf_toolkit.stderr import KEPT_BYTES, KeptStderr

HEADER = b"Traceback (most recent call last):\n"

# Runs the program in argv[2:] with a grace of argv[1] seconds and prints how it ended.
HOST = """
import json, os, sys
from tf_toolkit import supervisor
from tf_toolkit.process import ProcessSpec
spec = ProcessSpec("script", tuple(sys.argv[2:]), dict(os.environ), os.getcwd())
end = supervisor.run([spec], float(sys.argv[1]))[0]
print(json.dumps({"status": end.status, "signal": end.signal_number, "stopped_by": end.stopped_by}), flush=True)
"""


def host(*words: str, program: str = HOST, grace: float = DEADLINE, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", program, str(grace), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, **pipes)  # type: ignore[call-overload, no-any-return]


def end_of(process: subprocess.Popen[bytes]) -> tuple[str, bytes]:
    """The last line of standard output, and standard error."""
    stdout, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, stderr
    return stdout.decode().splitlines()[-1], stderr


def python(code: str) -> tuple[str, str, str]:
    return (sys.executable, "-c", code)


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("pass", '{"status": 0, "signal": null, "stopped_by": null}'),
        ("raise SystemExit(3)", '{"status": 3, "signal": null, "stopped_by": null}'),
        ("import os; os._exit(255)", '{"status": 255, "signal": null, "stopped_by": null}'),
        ("import os; os.kill(os.getpid(), 11)", '{"status": 139, "signal": 11, "stopped_by": null}'),
        ("import os; os.kill(os.getpid(), 9)", '{"status": 137, "signal": 9, "stopped_by": null}'),
        ("import os; os.kill(os.getpid(), 40)", '{"status": 168, "signal": 40, "stopped_by": null}'),
    ],
)
def test_exit_status(code: str, ended: str) -> None:
    assert end_of(host(*python(code)))[0] == ended


def test_standard_streams_pass_byte_for_byte(tmp_path: Path) -> None:
    """Carriage returns, blank lines, NUL, broken UTF-8, no last newline, and a 10 MB line."""
    strange = b"\r 10%\r 20%\n\n\n  indented \t\n\x00\x1b[1m\xff\xfe caf\xe9\r\n" + b"L" * 10_000_000 + b"\nno end"
    strange += random.Random(7).randbytes(300_000)
    data = tmp_path / "data"
    data.write_bytes(strange)
    code = f"import sys; d = open({str(data)!r}, 'rb').read(); sys.stdout.buffer.write(d); sys.stderr.buffer.write(d)"
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = host(*python(code), stdout=stdout, stderr=stderr)
        assert process.wait(timeout=DEADLINE) == 0
    assert err.read_bytes() == strange
    assert out.read_bytes()[: len(strange)] == strange


def test_standard_error_passes_at_once() -> None:
    process = host(
        *python(
            "import sys; sys.stderr.write('now'); sys.stderr.flush(); sys.stdin.read(); import time; time.sleep(600)"
        )
    )
    assert process.stderr is not None
    assert process.stderr.read(3) == b"now"
    process.send_signal(signal.SIGTERM)
    end_of(process)


def test_standard_input_is_empty() -> None:
    """A script that asks a question gets an end of file, not a wait without end."""
    process = host(*python("import sys; sys.exit(len(sys.stdin.read()))"), stdin=subprocess.PIPE)
    assert process.wait(timeout=DEADLINE) == 0
    assert process.stdin is not None
    assert process.stdout is not None
    assert b'"status": 0' in process.stdout.read()
    process.stdin.close()


def test_a_reader_that_left_does_not_end_the_script(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    mark = tmp_path / "mark"
    code = f"import sys; [sys.stderr.write('x' * 1000) for _ in range(5000)]; open({str(mark)!r}, 'w').close()"
    process = host(*python(code), stderr=writer)
    os.close(writer)
    os.close(reader)
    assert process.wait(timeout=DEADLINE) == 0
    assert mark.exists()


def test_a_reader_that_is_stuck_does_not_keep_the_signal_from_the_script(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    mark, stopped = tmp_path / "mark", tmp_path / "stopped"
    code = (
        "import signal, sys\n"
        f"def stop(*_): open({str(stopped)!r}, 'w').close(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"open({str(mark)!r}, 'w').close()\n"
        "while True: sys.stderr.write('x' * 4096)\n"
    )
    process = host(*python(code), stderr=writer)
    try:
        wait_until(mark.exists, "the script runs")
        process.send_signal(signal.SIGTERM)
        wait_until(stopped.exists, "the script got TERM")
    finally:
        os.close(writer)
        os.close(reader)
    assert process.wait(timeout=DEADLINE) == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_signals_reach_the_script_and_its_children(name: str) -> None:
    number = getattr(signal, name)
    code = (
        "import os, signal, sys, time\n"
        "child = os.fork()\n"
        f"signal.signal({number}, lambda *_: sys.exit(7))\n"
        "os.write(1, b'ready\\n')\n"
        "if child: os.wait()\n"
        "else: time.sleep(600)\n"
    )
    process = host(*python(code))
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == [b"ready\n"] * 2
    process.send_signal(number)
    stop = number if name in ("SIGTERM", "SIGINT", "SIGHUP") else "null"
    assert (
        end_of(process)[0] == f'{{"status": 7, "signal": null, "stopped_by": {int(stop) if stop != "null" else stop}}}'
    )


TWO = """
import os, sys
from tf_toolkit import supervisor
from tf_toolkit.process import ProcessSpec
supervisor.HEARING_SECONDS = float(sys.argv[1])
specs = [ProcessSpec("host", ("sh", "-c", code), dict(os.environ), "/", independent=True) for code in sys.argv[2:]]
print([end.status for end in supervisor.run(specs, 60)], flush=True)
"""


@pytest.mark.parametrize(
    ("seconds", "first", "second", "statuses"),
    [
        (DEADLINE, "exit 3", "sleep 1", "[3, 0]"),
        (DEADLINE, "kill -9 $$", "sleep 1; exit 68", "[137, 68]"),
        (0.2, "kill -9 $$", "exec sleep 600", "[137, 143]"),
    ],
)
def test_whoever_is_to_tell_the_others_itself(seconds: float, first: str, second: str, statuses: str) -> None:
    """They end by themselves; but not of a killed one that they had not met yet."""
    assert end_of(host(first, second, program=TWO, grace=seconds))[0] == statuses


def test_under_nohup_a_hang_up_is_ignored(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"import os, time\nprint('ready', flush=True)\nwhile not os.path.exists({str(mark)!r}): time.sleep(0.01)"
    command = ["nohup", sys.executable, "-c", HOST, "60", *python(code)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGHUP)
    mark.touch()
    assert end_of(process)[0] == '{"status": 0, "signal": null, "stopped_by": null}'


def test_a_script_that_ignores_term_is_killed_after_the_grace() -> None:
    code = (
        "import signal, time; signal.signal(15, lambda *_: None); print('ready', flush=True)\nwhile True: time.sleep(1)"
    )
    process = host(*python(code), grace=0.3)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert end_of(process)[0] == '{"status": 137, "signal": 9, "stopped_by": 15}'


@pytest.mark.parametrize(
    "leave",
    [
        "subprocess.Popen(['sleep', '600'])",
        "subprocess.Popen(['setsid', 'sleep', '600'])",
        "subprocess.Popen(['sh', '-c', 'setsid sh -c \"trap : TERM; while :; do sleep 600; done\" & echo'])",
    ],
)
def test_what_a_script_leaves_running_is_ended(tmp_path: Path, leave: str) -> None:
    tag = f"left-{os.getpid()}-{random.random()}"
    code = f"import os, subprocess; os.environ['LEFT_BY'] = {tag!r}; {leave}"
    process = host(*python(code))
    assert end_of(process)[0].startswith('{"status": 0')
    assert not [pid for pid in tagged(tag) if is_running(pid)]


def tagged(tag: str) -> list[int]:
    """Processes with this value of LEFT_BY in their environment."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if f"LEFT_BY={tag}".encode() in (directory / "environ").read_bytes():
                found.append(int(directory.name))
        except (OSError, ValueError):
            continue
    return found


def test_orphans_are_reaped_while_the_script_runs() -> None:
    """As PID 1 has to: fifty orphans end, and no zombie is left while the script still runs."""
    code = (
        "import glob, os, subprocess, sys, time\n"
        "for _ in range(50): subprocess.run(['sh', '-c', 'sleep 0.01 &'])\n"
        "def parent_of(stat):\n"
        "    try: return int(open(stat).read().rpartition(')')[2].split()[1])\n"
        "    except OSError: return 0\n"
        "def siblings(): return sum(parent_of(stat) == os.getppid() for stat in glob.glob('/proc/[0-9]*/stat')) - 1\n"
        "end = time.monotonic() + 30\n"
        "while siblings() and time.monotonic() < end: time.sleep(0.01)\n"
        "sys.exit(siblings())\n"
    )
    assert end_of(host(*python(code)))[0].startswith('{"status": 0')


def feed(chunks: list[bytes]) -> bytes:
    kept = KeptStderr()
    for chunk in chunks:
        kept.feed(chunk)
    return kept.value()


def test_a_short_stream_is_kept_whole() -> None:
    assert feed([b"a", b"b\n"]) == b"ab\n"


def test_the_last_of_a_long_stream_is_kept() -> None:
    lines = [b"line %07d\n" % number for number in range(100_000)]
    kept = feed(lines)
    assert KEPT_BYTES <= len(kept) <= 2 * KEPT_BYTES
    assert b"".join(lines).endswith(kept)


def test_a_traceback_far_back_is_kept() -> None:
    kept = feed([b"start\n", HEADER, b"ValueError: x\n", *[b"shutting down\n"] * 100_000])
    assert kept.startswith(HEADER + b"ValueError: x\n")
    assert kept.endswith(b"shutting down\n")


@settings(deadline=None, max_examples=50)
@given(
    cuts=st.lists(st.integers(1, 100_000), max_size=20), before=st.integers(0, 400_000), after=st.integers(0, 400_000)
)
def test_however_the_stream_is_cut_the_traceback_is_kept(cuts: list[int], before: int, after: int) -> None:
    stream = b"." * before + HEADER + b"ValueError: bad\n" + b"," * after
    chunks, rest = [], stream
    for cut in cuts:
        chunks.append(rest[:cut])
        rest = rest[cut:]
    kept = feed([*chunks, *(rest[i : i + 65536] for i in range(0, len(rest), 65536))])
    assert HEADER + b"ValueError: bad\n" in kept
    assert len(kept) <= 4 * KEPT_BYTES
    assert stream.endswith(kept[-min(len(kept), KEPT_BYTES) :])
