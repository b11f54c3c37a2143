from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command_line import DUMP, everything, finish, one_line, script, start, tf_toolkit, trap
from conftest import DEADLINE
from tf_toolkit.config import decode, read_config
from tf_toolkit.contract import RESERVED, Paths
from tf_toolkit.local import tree
from tf_toolkit.local.job import job

HOSTILE = [
    "a b",
    "'",
    '"',
    "$(touch pwned)",
    "`touch pwned`",
    "a;touch pwned",
    "-rf",
    "ünï→",
    "\\",
    "*",
    "x\ny",
    "",
    "{",
    "a=b",
]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A person's folder: dump.py, two channels."""
    script(tmp_path, DUMP.read_text(), "dump.py")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("1,2\n")
    (tmp_path / "test.csv").write_text("3,4\n")
    return tmp_path


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_script_sees_what_it_sees_on_the_platform(desk: Path) -> None:
    result = tf_toolkit(
        desk,
        *("run", "dump.py", "--train", "data", "--channel", "test=test.csv", "--output", "out"),
        *(
            "--hp",
            "epochs=3",
            "--hp",
            "layers=[64, 32]",
            "--hp",
            "name=ab",
            "--hp",
            "flag=true",
            "--",
            "--extra",
            "a b",
        ),
    )

    assert result.status == 0, result.log
    root, env = result.root, result.seen["env"]
    arguments = ["--epochs", "3", "--flag", "True", "--layers", "[64, 32]", "--name", "ab", "--extra", "a b"]
    assert result.seen["argv"] == arguments
    assert json.loads(env["SM_USER_ARGS"]) == arguments
    assert json.loads(env["SM_HPS"]) == {"epochs": 3, "layers": [64, 32], "name": "ab", "flag": True}
    assert (env["SM_HP_EPOCHS"], env["SM_HP_LAYERS"], env["SM_HP_NAME"]) == ("3", "[64,32]", "ab")
    assert (env["SM_HOSTS"], env["SM_CURRENT_HOST"], env["SM_CURRENT_INSTANCE_TYPE"]) == (
        '["algo-1"]',
        "algo-1",
        "local",
    )
    assert env["SM_NETWORK_INTERFACE_NAME"] in names(Path("/sys/class/net"))
    assert env["SM_CHANNELS"] == '["test","train"]'
    assert env["SM_CHANNEL_TRAIN"] == str(root / "input" / "data" / "train")
    assert env["SM_MODEL_DIR"] == str(root / "model")
    assert env["SM_OUTPUT_DATA_DIR"] == str(root / "output" / "data")
    assert env["SM_USER_ENTRY_POINT"] == "dump.py"
    assert env["SM_MODULE_DIR"] == str(root / "code")
    assert re.fullmatch(r"dump-\d{8}-\d{6}-\d{6}", env["TRAINING_JOB_NAME"])
    assert env["SAGEMAKER_JOB_NAME"] == env["TRAINING_JOB_NAME"]
    assert env["PIP_BREAK_SYSTEM_PACKAGES"] == "0"
    assert Path(env["SM_CHANNEL_TRAIN"], "a.csv").read_text() == "1,2\n"
    assert Path(env["SM_CHANNEL_TEST"], "test.csv").read_text() == "3,4\n"
    assert os.path.realpath(result.seen["cwd"]) == str(desk)
    assert result.succeeded


def test_nothing_is_copied_and_nothing_of_the_user_changes(desk: Path) -> None:
    (desk / "data" / "broken").symlink_to("nowhere")
    (desk / "linked").symlink_to("data")
    before = everything(desk)

    result = tf_toolkit(
        desk,
        *("run", "dump.py", "--train", "linked", "--channel", "test=test.csv", "--output", "out"),
        variables={"PYTHONDONTWRITEBYTECODE": "1"},
    )

    assert result.status == 0, result.log
    assert (result.root / "code").readlink() == desk
    assert (result.root / "input" / "data" / "train").readlink() == desk / "linked"
    assert (result.root / "input" / "data" / "test" / "test.csv").readlink() == desk / "test.csv"
    after = everything(desk)
    assert {name: after[name] for name in after if name.split("/")[0] != "out"} == before


def test_the_default_output_is_a_new_folder_each_time(desk: Path) -> None:
    for _ in range(2):
        assert tf_toolkit(desk, "run", "dump.py").status == 0

    runs = list((desk / "tf-toolkit-runs").iterdir())
    assert len(runs) == 2
    assert all(
        re.fullmatch(r"dump-\d{8}-\d{6}-\d{6}", run.name) and (run / "model" / "seen.json").exists() for run in runs
    )


def test_hostile_names_and_values_arrive_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s $(touch pwned) "ü" \n;'
    script(folder, DUMP.read_text(), "dump.py")
    (folder / "da ta").mkdir()
    words = [word for n, value in enumerate(HOSTILE) for word in ("--hp", f"h{n}={value}")]

    result = tf_toolkit(
        folder, "run", str(folder / "dump.py"), "--train", "da ta", "--output", "out", *words, "--", *HOSTILE
    )

    assert result.status == 0, result.log
    pairs = sorted((f"--h{n}", value) for n, value in enumerate(HOSTILE))
    assert result.seen["argv"] == [*(word for pair in pairs for word in pair), *HOSTILE]
    assert result.seen["env"]["SM_CHANNEL_TRAIN"] == str(folder / "out" / "input" / "data" / "train")
    assert not list(tmp_path.rglob("pwned"))


def test_bytes_that_are_not_utf8_arrive_as_they_are(desk: Path) -> None:
    script(desk, "import os, sys\nsys.stdout.buffer.write(os.fsencode(sys.argv[2]))", "bytes.py")

    assert tf_toolkit(desk, "run", "bytes.py", "--hp", b"x=\xff\xfe", "--output", b"o\xff").stdout == b"\xff\xfe"
    assert names(desk / os.fsdecode(b"o\xff") / "output") == ["data", "success"]


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_NAMES = _TEXT.filter(
    lambda name: name and "=" not in name and not name.startswith("sagemaker_") and name not in RESERVED
)


@given(
    hyperparameters=st.dictionaries(_NAMES, _TEXT | st.sampled_from(["1", "1.10", "true", "null", '"x"', "[1, {}]"])),
    channels=st.sets(st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True).filter(lambda name: name.strip("."))),
    program=st.from_regex(r"([A-Za-z0-9_+][A-Za-z0-9._+-]*/)?[A-Za-z0-9_+][A-Za-z0-9._+-]*", fullmatch=True),
    folder=_TEXT.map(lambda text: text.replace("/", "_")),
)
@settings(deadline=None, max_examples=50)
def test_what_the_tree_says_is_what_config_reads(
    tmp_path_factory: pytest.TempPathFactory, hyperparameters: Any, channels: Any, program: str, folder: str
) -> None:
    desk = tmp_path_factory.mktemp("desk")
    source = desk / f"code{folder}"
    script(source, "", program)
    described = job(
        script=program,
        source_dir=str(source),
        channels=[f"{name}={desk}" for name in channels],
        hyperparameters=[f"{name}={value}" for name, value in hyperparameters.items()],
        output=str(desk / f"out{folder}"),
        requirements=False,
        arguments=[],
    )
    with tree.claimed(described):
        tree.build(described, described.root)

    config = read_config(Paths(described.root), {"TRAINING_JOB_NAME": described.name})

    assert config.hyperparameters == {name: decode(value) for name, value in hyperparameters.items()}
    assert config.channels == tuple(sorted(channels))
    assert config.entry_point == program
    assert config.submit_directory == str(Paths(described.root).code)
    assert config.job_name == config.reserved_parameters["sagemaker_job_name"] == described.name
    assert (config.hosts, config.current_host, config.master) == (("algo-1",), "algo-1", "algo-1")
    assert config.framework_parameters == {}
    assert config.warnings == ()


def test_what_another_job_left_in_the_environment_is_not_this_ones(desk: Path) -> None:
    stale = {
        "SAGEMAKER_PROGRAM": "other.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": "/nowhere",
        "SAGEMAKER_TRAINING_MODULE": "other:main",
        "SAGEMAKER_BASE_DIR": "/nowhere",
        "TRAINING_JOB_NAME": "other",
        "SM_HP_OLD": "1",
        "SM_CHANNEL_OLD": "/old",
        "SM_TOPOLOGY": "[1]",
    }

    result = tf_toolkit(desk, "run", "dump.py", "--output", "out", variables=stale)

    assert result.status == 0, result.log
    env = result.seen["env"]
    assert env["SAGEMAKER_BASE_DIR"] == str(result.root)
    assert env["TRAINING_JOB_NAME"].startswith("dump-")
    assert not {"SM_HP_OLD", "SM_CHANNEL_OLD", "SM_TOPOLOGY", "SAGEMAKER_PROGRAM"} & set(env)


def test_a_relative_python_path_is_relative_to_the_person(desk: Path) -> None:
    script(desk, "", "lib/mine.py")
    script(desk, "import mine; print(mine.__file__)", "code/train.py")
    outer = os.environ.get("PYTHONPATH", "")

    result = tf_toolkit(desk, "run", "code/train.py", variables={"PYTHONPATH": f"lib:{outer}" if outer else "lib"})

    assert result.stdout.decode().strip() == str(desk / "lib" / "mine.py"), result.log


def test_modules_in_the_persons_folder_do_not_stand_in_for_the_toolkits(desk: Path) -> None:
    script(desk, "import sys; from tf_toolkit.local.cli import main; sys.exit(main())", "bin/tf-toolkit")
    for name in ("logging.py", "tf_toolkit/__init__.py", "code/__init__.py"):
        script(desk, "raise SystemExit('the wrong module')", f"here/{name}")

    words = ["../bin/tf-toolkit", "run", "../dump.py", "--output", "../out"]
    ended = subprocess.run(
        [sys.executable, *words], cwd=desk / "here", capture_output=True, timeout=DEADLINE, check=False
    )

    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    "given", [("src/train.py",), ("train.py", "--source-dir", "src"), ("src/train.py", "--source-dir", "src")]
)
def test_the_script_is_found_in_its_source_directory(tmp_path: Path, given: tuple[str, ...]) -> None:
    script(tmp_path, "import beside", "src/train.py")
    script(tmp_path, "print('imported')", "src/beside.py")

    assert tf_toolkit(tmp_path, "run", *given).stdout == b"imported\n"


def test_a_script_below_its_source_directory(tmp_path: Path) -> None:
    script(tmp_path, "import beside", "src/jobs/train.py")
    script(tmp_path, "print('imported')", "src/beside.py")

    for name in ("jobs/train.py", "src/jobs/train.py", str(tmp_path / "src" / "jobs" / "train.py")):
        assert tf_toolkit(tmp_path, "run", name, "--source-dir", "src").stdout == b"imported\n"


def test_output_of_an_earlier_run_is_replaced_and_what_it_links_to_stays(desk: Path) -> None:
    (desk / "disk").mkdir()
    words = ("run", "dump.py", "--train", "data", "--channel", "test=test.csv", "--output", "out")
    assert tf_toolkit(desk, *words).status == 0
    root = desk / "out"
    (root / "model" / "old").write_text("old")
    (root / "model" / "to_data").symlink_to(desk / "data")
    (root / "output" / "failure").write_text("old")
    (root / "notes.txt").write_text("mine")
    (root / "output" / "data").rmdir()
    (root / "output" / "data").symlink_to(desk / "disk")
    (desk / "disk" / "kept").write_text("kept")

    result = tf_toolkit(desk, "run", "dump.py", "--output", "out")

    assert result.status == 0, result.log
    assert names(root / "model") == ["seen.json"]
    assert names(root / "input" / "data") == []
    assert names(root / "output") == ["data", "success"]
    assert (root / "notes.txt").read_text() == "mine"
    assert (desk / "disk" / "kept").read_text() == "kept"
    assert (desk / "data" / "a.csv").read_text() == "1,2\n"
    assert (desk / "test.csv").read_text() == "3,4\n"


def test_a_folder_that_is_not_of_an_earlier_run_is_left_alone(desk: Path) -> None:
    script(desk, "mine", "out/model/mine")
    script(desk, "{}", "out/input/config/resourceconfig.json")
    before = everything(desk)

    result = tf_toolkit(desk, "run", "dump.py", "--output", "out")

    assert result.status == 2
    assert one_line(result.log).endswith("is not of an earlier run; give a new or empty directory")
    assert everything(desk) == before


def test_two_runs_do_not_share_an_output(desk: Path) -> None:
    script(desk, "import time; print('begun', flush=True); time.sleep(600)", "train.py")
    first = start(desk, "run", "train.py", "--output", "out")
    assert first.stdout is not None
    try:
        assert first.stdout.readline() == b"begun\n"

        result = tf_toolkit(desk, "run", "dump.py", "--output", "out")

        assert result.status == 2
        assert "in use by another run" in one_line(result.log)
    finally:
        first.terminate()
        assert finish(first, desk).status == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuch.py"], "'nosuch.py': no such file"),
        (["data"], "'data': a directory"),
        (["dump.py", "--source-dir", "nosuch"], "'nosuch': no such directory"),
        (["test.csv", "--source-dir", "data"], "is not inside --source-dir"),
        (["../x.py", "--source-dir", "data"], "no such file in"),
        (["data/../dump.py", "--source-dir", "data"], "is not inside --source-dir"),
        (["my script.py"], "letters, digits and . _ + - / only"),
        (["dump.py", "--train", "nosuch"], "'nosuch': No such file or directory"),
        (["dump.py", "--train", "test.csv/x"], "'test.csv/x': Not a directory"),
        (["dump.py", "--train", "data", "--channel", "train=data"], "'train' is given twice"),
        (["dump.py", "--channel", "a/b=data"], "'a/b' cannot be a channel's name"),
        (["dump.py", "--channel", "..=data"], "'..' cannot be a channel's name"),
        (["dump.py", "--channel", "=data"], "'' cannot be a channel's name"),
        (["dump.py", "--channel", "data"], "expected NAME=PATH, such as train="),
        (["dump.py", "--channel", "x="], "expected NAME=PATH, such as train="),
        (["dump.py", "--train", "s3://bucket/key"], "aws s3 cp"),
        (["dump.py", "--hp", "epochs"], "expected NAME=VALUE, such as epochs=3"),
        (["dump.py", "--hp", "=3"], "expected NAME=VALUE, such as epochs=3"),
        (["dump.py", "--hp", "a=1", "--hp", "a=2"], "'a' is given twice"),
        (["dump.py", "--hp", "sagemaker_program=x.py"], "comes from SCRIPT"),
        (["dump.py", "--output", "test.csv"], "Not a directory"),
        (["dump.py", "--output", "test.csv/out"], "Not a directory"),
        (["dump.py", "--train", "data", "--output", "data"], "channel 'train'"),
        (["dump.py", "--train", "out/model", "--output", "out"], "channel 'train'"),
        (["dump.py", "--output", "."], "the source directory"),
        (["dump.py", "--nosuch"], "unrecognized arguments: --nosuch"),
        (["dump.py", "--sou", "data"], "unrecognized arguments: --sou"),
        (["dump.py", "again.py"], "unrecognized arguments: again.py"),
        ([], "required: SCRIPT"),
        (["dump.py", "--hp"], "expected one argument"),
    ],
)
def test_a_mistake_is_one_line_with_a_remedy(desk: Path, words: list[str], said: str) -> None:
    script(desk, "", "my script.py")
    (desk / "out" / "model").mkdir(parents=True)
    (desk / "out" / tree.MARKER).touch()
    before = everything(desk)

    result = tf_toolkit(desk, "run", *words)

    assert result.status == 2
    assert said in one_line(result.log)
    assert result.stdout == b""
    assert everything(desk) == before


def test_no_command_is_a_mistake_too(desk: Path) -> None:
    assert "COMMAND" in one_line(tf_toolkit(desk).log)
    assert "'walk'" in one_line(tf_toolkit(desk, "walk").log)


def test_version_and_help_say_what_there_is(desk: Path) -> None:
    assert re.fullmatch(rb"tf-toolkit \d+\.\d+\S*\n", tf_toolkit(desk, "--version").stdout)
    for words in (["--help"], ["run", "--help"], ["explain", "--help"]):
        result = tf_toolkit(desk, *words)
        assert (result.status, result.stderr) == (0, b"")
    shown = tf_toolkit(desk, "run", "--help").stdout.decode()
    for option in ("SCRIPT", "--source-dir", "--train", "--channel", "--hp", "--requirements", "--output", "--"):
        assert option in shown


def test_a_failing_script_passes_its_status_on_and_its_failure_is_shown(desk: Path) -> None:
    script(desk, "raise ValueError('no such luck')", "train.py")

    result = tf_toolkit(desk, "run", "train.py", "--output", "out")

    assert result.status == 1
    last = result.log.splitlines()[-1]
    assert last.startswith(f"tf-toolkit: failure: {result.root}/output/failure: user code: ")
    assert "ValueError: no such luck" in last
    assert f"tf-toolkit: model: none; {result.root}/model is empty" in result.log


def test_the_status_of_a_script_is_the_status_of_run(desk: Path) -> None:
    script(desk, "import sys; sys.exit(37)", "train.py")
    script(desk, "import os; os.kill(os.getpid(), 9)", "killed.py")

    assert tf_toolkit(desk, "run", "train.py").status == 37
    assert tf_toolkit(desk, "run", "killed.py").status == 137


def test_odd_things_left_behind_do_not_hide_the_status(desk: Path) -> None:
    text = (
        "import os, sys\nos.rmdir(os.environ['SM_MODEL_DIR'])\nos.mkfifo(os.environ['SM_OUTPUT_FAILURE'])\nsys.exit(5)"
    )
    script(desk, text, "train.py")

    assert tf_toolkit(desk, "run", "train.py").status == 5


def test_a_job_described_wrongly_ends_as_train_ends(desk: Path) -> None:
    result = tf_toolkit(desk, "run", "dump.py", "--hp", "sagemaker_mpi_enabled=maybe", "--output", "out")

    assert result.status == 78
    assert "Traceback" not in result.log
    assert "expected true or false" in result.log.splitlines()[-1]


def test_where_things_lie_is_said_at_the_end(desk: Path) -> None:
    script(desk, "import os; open(os.environ['SM_OUTPUT_DATA_DIR'] + '/x', 'w')", "train.py")

    result = tf_toolkit(desk, "run", "train.py", "--output", "out")

    assert result.log.splitlines()[-2:] == [
        f"tf-toolkit: model: none; {desk}/out/model is empty",
        f"tf-toolkit: output: {desk}/out/output/data",
    ]
    assert tf_toolkit(desk, "run", "dump.py", "--output", "out").log.endswith(f"tf-toolkit: model: {desk}/out/model\n")


def test_requirements_are_installed_only_when_asked_for(desk: Path) -> None:
    # It is there, so nothing is fetched.
    script(desk, "psutil\n", "requirements.txt")

    without = tf_toolkit(desk, "run", "dump.py", "--output", "out")
    assert without.status == 0, without.log
    assert without.log.startswith("tf-toolkit: requirements.txt is not installed; --requirements installs it")
    assert without.seen["env"]["TF_TOOLKIT_REQUIREMENTS"] == "skip"

    asked = tf_toolkit(
        desk, "run", "dump.py", "--requirements", "--output", "out", variables={"TF_TOOLKIT_REQUIREMENTS": "skip"}
    )
    assert asked.status == 0, asked.log
    assert "installed: nothing" in asked.log
    assert "is not installed" not in asked.log


def test_a_log_that_nobody_reads_does_not_change_the_status(desk: Path) -> None:
    script(desk, "raise SystemExit(3)", "train.py")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert tf_toolkit(desk, "run", "train.py", stderr=writer).status == 3
    finally:
        os.close(writer)


def test_both_streams_are_passed_on_byte_for_byte(desk: Path) -> None:
    garbage = b"\r10%\r20%\n\n\x00\xff\xfe\x1b[31m" + b"x" * 200_000 + b"\r\nno end"
    (desk / "garbage").write_bytes(garbage)
    text = "import os, sys\nraw = open('garbage', 'rb').read()\n"
    script(desk, f"{text}sys.stdout.buffer.write(raw)\nsys.stderr.buffer.write(raw)", "train.py")

    result = tf_toolkit(desk, "run", "train.py")

    assert result.stdout == garbage
    assert garbage in result.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_matter(desk: Path, closed: str) -> None:
    shell = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "tf_toolkit.local"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("SM_", "SAGEMAKER"))}

    ended = subprocess.run(
        [*shell, "run", "dump.py", "--output", "out"], cwd=desk, env=environ, timeout=DEADLINE, check=False
    )

    assert ended.returncode == 0
    assert (desk / "out" / "model" / "seen.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_reaches_the_script_and_leaves_nothing_running(desk: Path, number: signal.Signals) -> None:
    script(desk, trap("checkpoint"), "train.py")
    process = start(desk, "run", "train.py", "--output", "out")
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) >= 3

    process.send_signal(number)
    result = finish(process, desk)

    assert (result.root / "model" / "checkpoint").read_text() == str(int(number))
    assert result.status == 0
    assert [child for child in below if child.is_running()] == []
    assert "Traceback" not in result.log


def test_a_script_that_does_not_mind_is_killed_after_the_inner_grace(desk: Path) -> None:
    script(
        desk,
        "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('begun', flush=True)\ntime.sleep(600)",
        "train.py",
    )
    process = start(desk, "run", "train.py", "--output", "out", variables={"TF_TOOLKIT_STOP_GRACE": "0.2"})
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"

    process.terminate()
    result = finish(process, desk)

    assert result.status == 137
    assert result.headline.startswith("stopped: SIGTERM asked the job to end")
