"""The cause of death, found in what real programs that fail print as they die."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import DEADLINE, PROGRAMS
from tf_toolkit.diagnosis import MESSAGE_LENGTH, TEXT_LENGTH, Cause, find_cause
from tf_toolkit.process import Exit, ProcessSpec, shell_status
from tf_toolkit.stderr import KEPT_BYTES, KeptStderr

FAILURES = PROGRAMS / "failures"
ENVIRON = {"PATH": os.environ["PATH"]}


def exit_of(stderr: bytes, status: int = 1, signal_number: int | None = None, code: Path = FAILURES) -> Exit:
    spec = ProcessSpec("main", ("python", "train.py"), ENVIRON, str(code))
    return Exit(spec, status, signal_number, stderr, stopped_by=None, oom_kills=0, began=0.0)


def cause_of(*command: str, code: Path = FAILURES) -> Cause:
    """Run a command in the code directory; the cause of its death, from what the supervisor keeps of its stderr."""
    process = subprocess.Popen(command, cwd=code, env=ENVIRON, stderr=subprocess.PIPE)
    assert process.stderr is not None
    kept = KeptStderr()
    while chunk := os.read(process.stderr.fileno(), 65536):
        kept.feed(chunk)
    _, wait_status = os.waitpid(process.pid, 0)
    status, signal_number = shell_status(wait_status)
    process.returncode = status
    return find_cause(exit_of(kept.value(), status, signal_number, code))


BAD_RATE = "ValueError: bad learning rate"
KILLED = "prterun noticed that process rank 0 with PID 17385 on node algo-1 exited on signal 9 (Killed)."
ABORTED = 'Fatal Python error: Aborted, after "free(): invalid pointer"'


@pytest.mark.parametrize(
    ("program", "message", "place"),
    [
        ("deep.py", BAD_RATE, "deep.py, line 6, in fit"),
        ("chained.py", BAD_RATE, "chained.py, line 8, in rate"),
        ("while_handling.py", "ValueError: bad fallback", "while_handling.py, line 6, in left"),
        ("unicode.py", "ValueError: 学習率が不正です", "unicode.py, line 3"),
        ("not_utf8.py", "ValueError: bad learning rate in caf\N{REPLACEMENT CHARACTER}", "not_utf8.py, line 7"),
        ("no_message.py", "AssertionError", "no_message.py, line 3"),
        ("import_error.py", "ModuleNotFoundError: No module named 'not_installed_pkg'", "import_error.py, line 3"),
        ("memory.py", "MemoryError", "memory.py, line 3"),
        ("recursion.py", "RecursionError: maximum recursion depth exceeded", "recursion.py, line 5, in loop"),
        ("custom.py", "shards.reader.ShardError: shard 17", "shards/reader.py, line 9, in read"),
        ("interrupted.py", "KeyboardInterrupt", "interrupted.py, line 6"),
        ("thread.py", "ValueError: prefetch failed", "thread.py, line 8, in prefetch"),
        ("thread_and_main.py", "RuntimeError: bad learning rate", "thread_and_main.py, line 21"),
        ("ignored.py", BAD_RATE, "ignored.py, line 10"),
        ("only_ignored.py", "dataset is empty", None),
        ("word_error.py", BAD_RATE, "word_error.py, line 9"),
        ("interleaved.py", BAD_RATE, "interleaved.py, line 7, in fit"),
        ("progress.py", BAD_RATE, "progress.py, line 7"),
        ("progress_exit.py", "dataset is empty", None),
        ("colours.py", "dataset is empty", None),
        ("exit_message.py", "dataset is empty", None),
        ("exit_status.py", "dataset is empty: /opt/ml/input/data/train has no files", None),
        ("handled_then_message.py", "dataset is empty", None),
        ("handled_then_status.py", "dataset is empty", None),
        ("handled_at_top.py", "KeyError: 'cache' dataset is empty", "handled_at_top.py, line 7"),
        ("handled_and_gave_up.py", "KeyError: 'learning_rate'", "handled_and_gave_up.py, line 9, in main"),
        ("arguments.py", "arguments.py: error: argument --lr: invalid float value: 'x'", None),
        ("noise_after.py", BAD_RATE, "noise_after.py, line 21"),
        ("segfault.py", "Fatal Python error: Segmentation fault", "segfault.py, line 9, in crash"),
        ("segfault.py progress", "Fatal Python error: Segmentation fault", "segfault.py, line 9, in crash"),
        ("cpp.py", "std::runtime_error: bad shard", None),
        ("cpp.py faulthandler", "std::runtime_error: bad shard", "cpp.py, line 10"),
        ("glibc.py", "free(): invalid pointer", None),
        ("glibc.py faulthandler", ABORTED, "glibc.py, line 12"),
        ("silent.py", "", None),
        (
            "rank_killed.py",
            "prterun noticed that process rank 0 with PID 17385 on node algo-1 exited on signal 9 (Killed).",
            None,
        ),
    ],
)
def test_the_cause_of_a_program_that_fails(program: str, message: str, place: str | None) -> None:
    cause = cause_of(sys.executable, *program.split())
    assert (cause.message, cause.place) == (message, place)
    assert message.rpartition(" ")[2].rstrip('"') in cause.text


def test_the_innermost_frame_of_the_users_own_code_is_shown() -> None:
    cause = cause_of(sys.executable, "in_library.py")
    assert cause.place == "in_library.py, line 7, in read_labels"
    assert cause.message.startswith("json.decoder.JSONDecodeError: Expecting property name")
    assert "json/decoder.py" in cause.text


def test_a_frame_outside_the_code_directory_is_better_than_none(tmp_path: Path) -> None:
    cause = cause_of(sys.executable, str(FAILURES / "in_library.py"), code=tmp_path)
    assert cause.place == f"{FAILURES}/in_library.py, line 7, in read_labels"


@pytest.mark.parametrize("module", [("-m", "shards.fails"), ("-c", "import shards.fails")])
def test_an_entry_point_that_is_no_script(tmp_path: Path, module: tuple[str, str]) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "fails.py").write_text("raise ValueError('bad learning rate')\n")
    cause = cause_of(sys.executable, *module, code=tmp_path)
    assert (cause.message, cause.place) == (BAD_RATE, "shards/fails.py, line 1")


def test_the_first_of_a_chain_is_in_the_text() -> None:
    assert "first of a chain: KeyError: 'rate'" in cause_of(sys.executable, "chained.py").text
    text = cause_of(sys.executable, "while_handling.py").text
    assert text.startswith("first of a chain: ValueError: bad learning rate\nTraceback (most recent call last):\n")
    assert text.endswith("\nValueError: bad fallback")
    assert "\n[...]\n" in text
    assert len(text) == TEXT_LENGTH


def test_a_message_of_many_lines_is_joined_and_cut_in_the_middle() -> None:
    cause = cause_of(sys.executable, "many_lines.py")
    assert cause.message.startswith("ValueError: Exception encountered when calling Dense.call(). * layer 0: (None, 0)")
    assert cause.message.endswith("Input 0 must have 4 features. [[node]]")
    assert len(cause.message) == MESSAGE_LENGTH
    assert cause.text.endswith("Input 0 must have 4 features.\n\t [[node]]")


def test_the_users_function_inside_tensorflow_is_the_place() -> None:
    cause = cause_of(sys.executable, "py_function.py")
    assert cause.message.startswith("tensorflow.python.framework.errors_impl.InvalidArgumentError: ")
    assert cause.message.endswith("ValueError: bad shard 0")
    assert cause.place == "py_function.py, line 7, in load"
    assert "{{node EagerPyFunc}}" in cause.text


def test_a_group_names_its_first_exception_that_is_no_group() -> None:
    cause = cause_of(sys.executable, "group.py")
    assert (
        cause.message == "ExceptionGroup: training failed (2 sub-exceptions), first: ValueError: bad shard 0 of three"
    )
    assert cause.place == "group.py, line 5, in load"
    assert "TypeError: late" in cause.text


BROKEN = {
    "SyntaxError": "def fit():\n    rate = (1\n\n\nfit()\n",
    "IndentationError": "def fit():\nrate = 1\n",
    "TabError": "def fit():\n        one = 1\n\ttwo = 2\n",
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("importer", ["", "import broken\n"], ids=["script", "imported"])
def test_code_that_python_cannot_parse(tmp_path: Path, kind: str, importer: str) -> None:
    (tmp_path / "broken.py").write_text(BROKEN[kind])
    (tmp_path / "train.py").write_text(importer or BROKEN[kind])
    cause = cause_of(sys.executable, "train.py", code=tmp_path)
    assert cause.message.startswith(f"{kind}: ")
    line = 3 if kind == "TabError" else 2
    assert cause.place == f"{'broken.py' if importer else 'train.py'}, line {line}"
    assert BROKEN[kind].splitlines()[line - 1].strip() in cause.text


def test_what_was_handled_is_still_in_the_text() -> None:
    for program in ("handled_then_message.py", "handled_then_status.py"):
        text = cause_of(sys.executable, program).text
        assert text.startswith("Traceback (most recent call last):\n")
        assert text.endswith("KeyError: 'cache'\ndataset is empty")


def test_a_thread_is_named_in_the_text() -> None:
    assert cause_of(sys.executable, "thread.py").text.startswith("Exception in thread Thread-1")


@pytest.mark.parametrize("faulthandler", [[], ["faulthandler"]], ids=["plain", "faulthandler"])
def test_a_failed_check_of_tensorflow(faulthandler: list[str]) -> None:
    cause = cause_of(sys.executable, "check_failed.py", *faulthandler)
    assert cause.message.startswith("Check failed: ")
    assert "tensor_shape" in cause.message
    assert cause.place == ("check_failed.py, line 17" if faulthandler else None)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("sh", "disk_check.sh"), "disk check failed"),
        (("bash", "not_found.sh"), "not_found.sh: line 3: no-such-program-anywhere: command not found"),
    ],
)
def test_a_shell_script(command: tuple[str, str], message: str) -> None:
    assert cause_of(*command).message == message


def test_a_shell_script_that_runs_python() -> None:
    cause = cause_of("sh", "runs_python.sh", sys.executable, "deep.py")
    assert (cause.message, cause.place) == (BAD_RATE, "deep.py, line 6, in fit")
    cause = cause_of("bash", "runs_python.sh", sys.executable, "cpp.py")
    assert cause.message == "std::runtime_error: bad shard"


@pytest.mark.parametrize("blank", ["", " "], ids=["open-mpi-4", "open-mpi-5"])
def test_the_rank_that_failed_first_is_the_cause(blank: str) -> None:
    cause = cause_of(sys.executable, "ranks.py", blank)
    assert (cause.message, cause.place) == (BAD_RATE, "deep.py, line 6, in fit")
    assert "KeyError" not in cause.text
    assert "stderr" not in cause.text


def test_a_traceback_far_back_in_the_log_still_leads() -> None:
    kept = KeptStderr()
    kept.feed(b'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\n')
    kept.feed(BAD_RATE.encode() + b"\n")
    noise = b"2024-05-01 10:00:00.123456: I tensorflow/core/framework/bfc_allocator.cc:1112] chunk of size 256\n"
    for _ in range(4 * KEPT_BYTES // len(noise)):
        kept.feed(noise)
    cause = find_cause(exit_of(kept.value()))
    assert (cause.message, cause.place) == (BAD_RATE, "train.py, line 3")


TRACEBACK_LINES = [
    b"Traceback (most recent call last):",
    b"  + Exception Group Traceback (most recent call last):",
    b'  File "train.py", line 3, in fit',
    b'  File "train.py", line 3',
    b'  File "/opt/venv/lib/python3.11/site-packages/x.py", line 3 in f',
    b"    raise ValueError",
    b"    ^^^^^^^^",
    b"ValueError: bad",
    b"During handling of the above exception, another exception occurred:",
    b"  +-+---------------- 1 ----------------",
    b"    | ValueError: bad",
    b"    +------------------------------------",
    b"Exception ignored in: <f>",
    b"Exception in thread Thread-1 (f):",
    b"Fatal Python error: Aborted",
    b"Current thread 0x00 (most recent call first):",
    b"terminate called after throwing an instance of 'x'",
    b"  what():  bad",
    b"F0000 00:00:1714550400.123456 1 a.cc:1] Check failed: x",
    b"W0000 00:00:1714550400.123456 1 a.cc:1] slow",
    b"-" * 74,
    b"[1,0]<stderr>:Traceback (most recent call last):",
    b"[1,0]<stderr>:ValueError: bad",
    b"10%|#   | 1/10\r20%|##  | 2/10\r",
    b"[...]",
    b"",
]


@settings(deadline=None)
@given(
    lines=st.lists(st.sampled_from(TRACEBACK_LINES) | st.binary(max_size=40), max_size=30),
    status=st.sampled_from([0, 1, 2, 7, 130, 134, 137]),
)
def test_it_never_raises_and_keeps_its_limits(lines: list[bytes], status: int) -> None:
    cause = find_cause(exit_of(b"\n".join(lines), status))
    assert len(cause.message) <= MESSAGE_LENGTH
    assert len(cause.text) <= TEXT_LENGTH
    assert cause.message == " ".join(cause.message.split())


def diagnose_repetitions() -> None:
    """Diagnose as much as the supervisor keeps of one line again and again."""
    for line in (*TRACEBACK_LINES, b" ", b"\r", b"1:", b"a", b"\x1b[", b":1: x", b"'", b" File", b"]", b'", line 1'):
        for end in (b"\n", b"", b"\n  x\n"):
            find_cause(exit_of((line + end) * (2 * KEPT_BYTES // (len(line + end) or 1))))


def test_the_work_is_proportional_to_the_input() -> None:
    """A few seconds; a step that looks at every line from every line makes it minutes."""
    command = [sys.executable, "-c", "import test_diagnosis; test_diagnosis.diagnose_repetitions()"]
    subprocess.run(command, cwd=Path(__file__).parent, check=True, timeout=DEADLINE)
