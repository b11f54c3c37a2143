from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import struct
import tarfile
import termios
from pathlib import Path
from typing import Any

import pytest

from command_line import DUMP, everything, explained, finish, script, shown, start, tf_toolkit
from conftest import DEADLINE, Job, wait_until
from hosts import Hosts

KEYS = [
    "root",
    "hosts",
    "current_host",
    "channels",
    "pipe_mode",
    "strategy",
    "code",
    "requirements",
    "package",
    "arguments",
    "processes",
    "warnings",
]
SECRETS = {"SERVICE_PASSWORD": "hunter2-variable"}


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    script(tmp_path, DUMP.read_text(), "dump.py")
    (tmp_path / "data").mkdir()
    return tmp_path


def of_tree(job: Job, *words: str, **variables: str) -> dict[str, Any]:
    return explained(job.root.parent, "--tree", str(job.root), *words, variables=variables)


def test_it_says_of_options_what_run_then_does(desk: Path) -> None:
    words = [
        "dump.py",
        "--train",
        "data",
        "--hp",
        "epochs=3",
        "--hp",
        "name=a b",
        "--output",
        "o ütput",
        "--",
        "--extra",
        "",
    ]

    found = explained(desk, *words)
    before = everything(desk)
    assert tf_toolkit(desk, "run", *words).status == 0

    assert "o ütput" not in before
    root = desk / "o ütput"
    assert list(found) == KEYS
    assert (found["root"], found["hosts"], found["current_host"]) == (str(root), ["algo-1"], "algo-1")
    assert found["channels"] == {"train": str(root / "input" / "data" / "train")}
    assert (found["strategy"], found["requirements"], found["package"]) == ("single", "none", "none")
    assert found["code"] == {"directory": str(root / "code"), "fetched_from": None}
    assert found["warnings"] == []
    seen = json.loads((root / "model" / "seen.json").read_text())
    (process,) = found["processes"]
    assert found["arguments"] == seen["argv"] == ["--epochs", "3", "--name", "a b", "--extra", ""]
    assert process["command"] == [seen["executable"], "--", "dump.py", *seen["argv"]]
    assert (process["role"], process["left_out"]) == ("script", [])
    assert Path(process["directory"]).samefile(seen["cwd"])
    # The job's name has the time in it.
    one, other = process["variables"].pop("TRAINING_JOB_NAME"), seen["env"].pop("TRAINING_JOB_NAME")
    assert process["variables"] == {name: seen["env"][name].replace(other, one) for name in process["variables"]}
    assert {name for name in seen["env"] if name.startswith("SM_")} <= set(process["variables"])


def test_it_starts_installs_and_leaves_nothing(desk: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    script(desk, "no such thing, nowhere", "requirements.txt")
    temporary = tmp_path_factory.mktemp("temporary")
    before = everything(desk)
    variables = {"TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}

    plain = tf_toolkit(desk, "explain", "dump.py", "--train", "data", "--requirements", variables=variables)
    found = explained(desk, "dump.py", variables=variables)

    assert plain.status == 0, plain.log
    assert everything(desk) == before
    assert list(temporary.iterdir()) == []
    assert found["requirements"] == "not installed"
    assert explained(desk, "dump.py", "--requirements")["requirements"] == "installed"


def test_a_tree_is_explained_as_train_would_run_it(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path / "hosts", 2, DUMP.read_text(), lr="0.1")
    job = hosts.jobs["127.0.0.2"]
    job.config("inputdataconfig", {"train": {}})
    before = everything(job.root)

    found = of_tree(job, "--", "--more")
    assert everything(job.root) == before
    hosts.set(TRAINING_JOB_NAME="a-job")
    surroundings = {"SAGEMAKER_BASE_DIR": str(job.root), "TF_TOOLKIT_LOCAL_PORTS": str(hosts.port)}
    named = explained(job.root, variables=surroundings)
    hosts.start()
    result = hosts.finish()["127.0.0.2"]

    assert (found["hosts"], found["current_host"]) == (["127.0.0.1", "127.0.0.2"], "127.0.0.2")
    assert found["arguments"] == ["--lr", "0.1", "--more"]
    assert named["arguments"] == ["--lr", "0.1"] == result.seen["argv"]
    variables = named["processes"][0]["variables"]
    known = {name: value for name, value in variables.items() if name != "SM_TRAINING_ENV"}
    assert known == {name: result.seen["env"][name] for name in known}


def test_only_what_the_toolkit_sets_or_changes_is_shown(job: Job) -> None:
    job.program("dump.py")
    variables = of_tree(job, MINE="1", SM_HOSTS="old", OMP_NUM_THREADS="7")["processes"][0]["variables"]

    assert {"MINE", "OMP_NUM_THREADS", "HOME"} & set(variables) == set()
    assert variables["SM_HOSTS"] == json.dumps([socket.gethostname()])
    assert list(variables) == sorted(variables)


def test_secrets_are_masked_everywhere(desk: Path) -> None:
    words = ["dump.py", "--hp", "api_key=98761", "--hp", "x=hunter2-variable", "--hp", 'c={"password": "abc\\"def"}']
    for more in ([], ["--json"]):
        result = tf_toolkit(desk, "explain", *words, *more, "--", "--token", "t0k", variables=SECRETS)

        assert result.status == 0, result.log
        said = result.stdout.decode()
        for secret in ("98761", "hunter2", "abc", "def", "t0k"):
            assert secret not in said
        assert "******" in said


def test_code_that_must_be_fetched_is_said_and_not_fetched(job: Job) -> None:
    job.hyperparameters(sagemaker_submit_directory="s3://user:hush@bucket/source.tar.gz", sagemaker_program="train.py")

    found = of_tree(job)

    assert found["code"] == {"directory": str(job.root / "code"), "fetched_from": "s3://******@bucket/source.tar.gz"}
    (process,) = found["processes"]
    assert (process["command"], found["requirements"], found["package"]) == (None, None, None)
    assert process["variables"]["SM_USER_ENTRY_POINT"] == "train.py"
    said = tf_toolkit(job.root, "explain", "--tree", ".").stdout.decode()
    assert "not known before the code is fetched from s3://******@bucket/source.tar.gz" in said


def test_an_archive_is_not_unpacked(job: Job, tmp_path: Path) -> None:
    script(tmp_path, "", "train.py")
    with tarfile.open(tmp_path / "source.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "train.py", "train.py")
    job.hyperparameters(sagemaker_submit_directory=str(tmp_path / "source.tar.gz"), sagemaker_program="train.py")

    assert of_tree(job)["code"]["fetched_from"] == str(tmp_path / "source.tar.gz")
    assert list((job.root / "code").iterdir()) == []


def test_code_in_another_folder_is_looked_at_there(job: Job, tmp_path: Path) -> None:
    script(tmp_path, "", "src/go.py")
    script(tmp_path, "[project]\n", "src/pyproject.toml")
    job.hyperparameters(sagemaker_submit_directory=str(tmp_path / "src"), sagemaker_program="go.py")

    found = of_tree(job)
    assert found["code"] == {"directory": str(job.root / "code"), "fetched_from": str(tmp_path / "src")}
    assert found["processes"][0]["command"][1:] == ["-m", "go"]
    assert found["package"] == "installed"

    job.code("other.py", "")
    found = of_tree(job)
    assert not found["code"]["directory"].startswith(str(job.root))


def test_what_is_too_large_is_named(job: Job) -> None:
    job.program("dump.py")
    job.hyperparameters(**{f"h{n}": "x" * 2500 for n in range(100)})

    (process,) = of_tree(job)["processes"]

    assert "SM_TRAINING_ENV" in process["left_out"]
    assert "SM_TRAINING_ENV" not in process["variables"]
    assert "SM_HP_H1" in process["variables"]


def test_warnings_of_train_are_said(job: Job) -> None:
    job.program("dump.py")
    job.hyperparameters(sagemaker_container_log_level="loud", model_dir="s3://bucket/model")

    found = of_tree(job)

    assert any("log level 'loud'" in line for line in found["warnings"])
    assert any("S3_REGION" in line for line in found["warnings"])


@pytest.mark.parametrize(
    ("hyperparameters", "status"),
    [
        ({"sagemaker_program": "nosuch.py"}, 78),
        ({"sagemaker_program": "../x.py"}, 78),
        ({"sagemaker_mpi_enabled": "maybe"}, 78),
        ({"sagemaker_distributed_dataparallel_enabled": "true"}, 78),
        ({"sagemaker_submit_directory": "/nowhere"}, 66),
        ({"a=b": "1"}, 78),
        ({"big": "x" * 200_000}, 78),
    ],
)
def test_a_job_described_wrongly_gets_the_line_and_the_status_of_train(
    job: Job, hyperparameters: dict[str, str], status: int
) -> None:
    job.program("dump.py")
    job.hyperparameters(**hyperparameters)

    said = tf_toolkit(job.root, "explain", "--tree", ".")
    result = job.train()

    assert said.status == result.status == status
    assert said.stdout == b""
    assert said.log.count("\n") == 1
    message = said.log.removeprefix("tf-toolkit: error: ").strip()
    assert message[:400] in result.failure.splitlines()[0]


def test_errors_of_options_name_the_persons_place(desk: Path) -> None:
    said = tf_toolkit(desk, "explain", "dump.py", "--hp", "sagemaker_distribution_instance_groups=1", "--output", "out")

    assert said.status == 78
    assert f"{desk}/out/input/config/hyperparameters.json" in said.log
    assert said.log.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dump.py", "--tree", "."], "SCRIPT and --tree are two jobs"),
        (["--hp", "a=1"], "need SCRIPT"),
        (["--requirements"], "need SCRIPT"),
        (["--hosts", "2"], "need SCRIPT"),
        (["--tree", "nosuch"], "'nosuch': no such directory"),
        (["dump.py", "--output", "data"], "is not of an earlier run"),
        (["nosuch.py"], "no such file"),
    ],
)
def test_a_mistake_is_one_line(desk: Path, words: list[str], said: str) -> None:
    (desk / "data" / "mine").touch()
    result = tf_toolkit(desk, "explain", *words)

    assert result.status == 2
    assert result.log.startswith("tf-toolkit: error: ")
    assert result.log.count("\n") == 1
    assert said in result.log


def test_plain_text_has_a_line_for_each_thing(desk: Path) -> None:
    result = tf_toolkit(desk, "explain", "dump.py", "--train", "data", "--hp", "x=a\nb\x1b[31m", "--output", "out")

    lines = result.stdout.decode().splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == [
        "job",
        "channels",
        "process script",
        "variables of script",
    ]
    assert f"  train  {desk}/out/input/data/train" in lines
    assert any(line.startswith("  SM_MODEL_DIR ") and line.endswith(f" {desk}/out/model") for line in lines)
    assert b"\x1b" not in result.stdout


def test_text_that_standard_output_cannot_hold_is_escaped(desk: Path) -> None:
    words: list[str | bytes] = ["--hp", "x=ünï", "--hp", b"y=\xff"]
    result = tf_toolkit(desk, "explain", "dump.py", *words, variables={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})

    assert result.status == 0, result.log
    assert b"-x '\\xfcn\\xef'" in result.stdout


def test_the_keys_are_documented(desk: Path) -> None:
    said = tf_toolkit(desk, "explain", "--help").stdout.decode()
    found = explained(desk, "dump.py")

    for key in (*found, *found["code"], *found["processes"][0]):
        assert re.search(rf"\b{key}\b", said), key


def test_a_reader_who_has_had_enough_is_no_error(desk: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = tf_toolkit(desk, "explain", "dump.py", stdout=writer)
    finally:
        os.close(writer)

    assert result.status == 128 + signal.SIGPIPE
    assert result.stderr == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_nothing(desk: Path, tmp_path_factory: pytest.TempPathFactory, number: signal.Signals) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    text = '#!/bin/sh\ntouch "$GATE/begun"\nwhile [ ! -e "$GATE/end" ]; do sleep 0.02; done\n'
    script(desk, text, "bin/nvidia-smi")
    (desk / "bin" / "nvidia-smi").chmod(0o755)
    variables = {"TMPDIR": str(temporary), "GATE": str(desk), "PATH": f"{desk / 'bin'}:{os.environ['PATH']}"}
    process = start(desk, "explain", "dump.py", variables=variables)
    wait_until((desk / "begun").exists, "the device tool runs")

    process.send_signal(number)
    result = finish(process, desk)
    (desk / "end").touch()

    assert (result.status, result.stdout, result.stderr) == (128 + number, b"", b"")
    assert list(temporary.iterdir()) == []


def test_tables_on_a_terminal(desk: Path) -> None:
    keyboard, device = os.openpty()
    fcntl.ioctl(device, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    process = start(desk, "explain", "dump.py", "--hp", "x=[bold]y", stdout=device, variables={"TERM": "xterm"})
    os.close(device)
    written = shown(keyboard)

    assert process.wait(DEADLINE) == 0
    assert b"\x1b[" in written
    assert b"-x '[bold]y'" in written
