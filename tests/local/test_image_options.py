"""What `tf-toolkit run --image` finds out before it has a container."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from command_line import everything, one_line, script, tf_toolkit
from conftest import DEADLINE
from tf_toolkit.local import image, tree
from tf_toolkit.local.containers import copies
from tf_toolkit.local.job import Container, Job, UsageError, job

PLAIN = Container(image="an/image:1", gpus=None, memory=None, nano_cpus=None, variables={})
NO_DAEMON = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A person's folder: train.py, and a channel."""
    script(tmp_path, "print('trained')")
    script(tmp_path, "1,2\n", "data/a.csv")
    return tmp_path


def described(source: Path, container: Container = PLAIN, **options: Any) -> Job:
    return job(
        script=str(source / "train.py"),
        **{"source_dir": None, "channels": [], **options},
        hyperparameters=[],
        output=str(source / "out"),
        requirements=False,
        arguments=[],
        container=container,
    )


def container(**options: Any) -> Container | None:
    names = ("image", "gpus", "memory", "cpus", "variables")
    given = {name: options.pop(name, None) for name in names}
    return image.container(**{"environ": {}, "arguments": [], **given, **options})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--memory", "2g"], "--memory needs --image"),
        (["--cpus", "2"], "--cpus needs --image"),
        (["--gpus", "all"], "--gpus needs --image"),
        (["--env", "A=1"], "--env needs --image"),
        (["--image", ""], "such as tf-toolkit:cpu"),
        (["--image", "i", "--memory", "much"], "--memory 'much': give a size such as 512m or 2g"),
        (["--image", "i", "--memory", "-2g"], "expected one argument"),
        (["--image", "i", "--memory=-2g"], "--memory '-2g': give a size"),
        (["--image", "i", "--memory", "100"], "Docker takes no less than 6m"),
        (["--image", "i", "--cpus", "0"], "--cpus '0': give a number of at least 0.01"),
        (["--image", "i", "--cpus=-1"], "--cpus '-1': give a number of at least 0.01"),
        (["--image", "i", "--cpus", "nan"], "--cpus 'nan': give a number of at least 0.01"),
        (["--image", "i", "--cpus", "two"], "--cpus 'two': give a number of at least 0.01"),
        (["--image", "i", "--gpus", "0"], "--gpus '0': give `all`"),
        (["--image", "i", "--gpus", "some"], "--gpus 'some': give `all`"),
        (["--image", "i", "--env", "NOT_SET_ANYWHERE"], "--env NOT_SET_ANYWHERE: there is no such variable here"),
        (["--image", "i", "--env", "=secret"], "--env: expected NAME=VALUE"),
        (["--image", "i", "--env", "A=secret", "--env", "A=secret"], "--env A is given twice"),
        (["--image", "i", "--env", "SAGEMAKER_BASE_DIR=/secret"], "--env SAGEMAKER_BASE_DIR: this is set for each run"),
        (["--image", "i", "--env", b"A=secret\xff"], "--env A is not UTF-8"),
        (["--image", "i", "--", b"\xff"], "'\\udcff' is not UTF-8, and Docker takes nothing else"),
    ],
)
def test_a_mistake_is_one_line_with_a_remedy(desk: Path, words: list[str | bytes], said: str) -> None:
    before = everything(desk)

    result = tf_toolkit(desk, "run", "train.py", *words, variables=NO_DAEMON)

    assert result.status == 2
    assert said in one_line(result.log)
    assert "secret" not in result.log
    assert result.stdout == b""
    assert everything(desk) == before


def test_sizes_and_counts_are_docker_s() -> None:
    made = container(image="i", gpus="all", memory="1.5g", cpus=".5", variables=["A=1=2", "B"], environ={"B": "b"})

    assert made == Container("i", -1, 3 << 29, 500_000_000, {"A": "1=2", "B": "b"})
    assert [container(image="i", memory=text).memory for text in ("512m", "8388608", "8192K", "1G")] == [  # type: ignore[union-attr]
        512 << 20,
        8 << 20,
        8 << 20,
        1 << 30,
    ]
    assert container() is None


def test_no_daemon_is_one_line_and_leaves_nothing(desk: Path) -> None:
    result = tf_toolkit(desk, "run", "train.py", "--image", "i", "--output", "out", variables=NO_DAEMON)

    assert result.status == 125
    assert one_line(result.log).endswith(
        "no Docker daemon answers at unix:///nowhere/docker.sock; start it, or name another in DOCKER_HOST"
    )
    assert [path.name for path in (desk / "out").iterdir()] == [tree.MARKER]


def test_docker_py_missing_is_one_line(desk: Path) -> None:
    code = "import sys; sys.modules['docker'] = None; from tf_toolkit.local.cli import main; sys.exit(main())"

    ended = subprocess.run(
        [sys.executable, "-c", code, "run", "train.py", "--image", "i"],
        cwd=desk,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert ended.returncode == 125
    assert one_line(ended.stderr).endswith(
        "--image needs docker-py, which is not installed: pip install 'tf-toolkit[local]'"
    )


def test_without_an_image_docker_is_not_even_imported(desk: Path) -> None:
    result = tf_toolkit(desk, "run", "train.py", variables={**NO_DAEMON, "PYTHONPROFILEIMPORTTIME": "1"})

    assert result.status == 0, result.log
    imported = {line.rpartition("|")[2].strip() for line in result.log.splitlines() if line.startswith("import time:")}
    assert "tf_toolkit.local.run" in imported
    assert not imported & {"docker", "requests", "tf_toolkit.local.containers"}


def test_explain_has_no_containers(desk: Path) -> None:
    result = tf_toolkit(desk, "explain", "train.py", "--image", "i")

    assert result.status == 2
    assert "unrecognized arguments: --image i" in one_line(result.log)


@pytest.mark.parametrize(("gpus", "instance_type"), [(None, "local"), (-1, "local_gpu"), (2, "local_gpu")])
def test_hosts_are_called_as_on_the_platform(desk: Path, gpus: int | None, instance_type: str) -> None:
    two = described(desk, PLAIN._replace(gpus=gpus), hosts=2, channels=[f"train={desk / 'data'}"])

    assert two.hosts == ("algo-1", "algo-2")
    assert described(desk, distribution="mpi").hosts == ("algo-1",)
    found = tree.documents(two, "algo-2")
    assert found["resourceconfig.json"] == {
        "current_host": "algo-2",
        "hosts": ["algo-1", "algo-2"],
        "network_interface_name": "eth0",
        "current_instance_type": instance_type,
    }
    assert json.loads(found["hyperparameters.json"]["sagemaker_submit_directory"]) == "/opt/ml/code"


def packed(described: Job) -> dict[str, tarfile.TarInfo]:
    with copies.packed_code(described) as file:
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            return {member.name.removeprefix("opt/ml/code").lstrip("/"): member for member in tar}


def test_the_code_goes_in_without_what_a_container_has_no_use_for(desk: Path) -> None:
    source = desk / "src"
    for name in (
        "train.py",
        "package/part.py",
        "package/__pycache__/part.pyc",
        ".git/config",
        "venv/pyvenv.cfg",
        "venv/bin/python",
        f"results/{tree.MARKER}",
        "results/model/weights",
        "data/big",
        "conf/a.json",
    ):
        script(source, "", name)
    script(desk, "", "shared/common.py")
    (source / "train.py").chmod(0o700)
    (source / "package" / "part.py").chmod(0o600)
    (source / "inside").symlink_to("package/part.py")
    (source / "outside").symlink_to(desk / "shared")
    (source / "circle").symlink_to(source)
    (source / "broken").symlink_to("/nowhere")
    (source / "unused").symlink_to(desk / "data")
    os.mkfifo(source / "fifo")
    channels = [f"train={source / 'data'}", f"test={desk / 'data'}", f"conf={source / 'conf' / 'a.json'}"]

    found = packed(described(source, channels=channels))

    assert sorted(found) == [
        "",
        "conf",
        "conf/a.json",
        "inside",
        "outside",
        "outside/common.py",
        "package",
        "package/part.py",
        "train.py",
    ]
    assert (found["train.py"].mode, found["package/part.py"].mode, found["package"].mode) == (0o755, 0o644, 0o777)
    assert (found["inside"].linkname, found["outside"].isdir()) == ("package/part.py", True)
    assert {(member.uid, member.gid) for member in found.values()} == {(0, 0)}


def test_what_is_more_than_code_is_refused_before_it_is_copied(desk: Path) -> None:
    with (desk / "big").open("wb") as file:
        file.truncate((1 << 30) + 1)

    with pytest.raises(UsageError, match="holds more than 1 GiB besides the channels"):
        packed(described(desk))


STOPS = """
import os, signal, sys
from tf_toolkit import signals
from tf_toolkit.errors import Stopped
from tf_toolkit.local.containers import copies

signals.listen()
stops = copies._Stops()
pieces = copies._Pieces(iter([b"first", b"second", b"third"]), stops)
try:
    for count in range(3):
        print(pieces.read(100).decode(), flush=True)
        os.kill(os.getpid(), signal.SIGINT)
except Stopped as stop:
    print("stopped by", stop.signal_number)
"""


def test_results_are_left_behind_only_for_who_asks_twice() -> None:
    ended = subprocess.run([sys.executable, "-c", STOPS], capture_output=True, text=True, timeout=DEADLINE, check=False)

    assert ended.stdout == "first\nsecond\nstopped by 2\n", ended.stderr
    assert ended.stderr.splitlines() == [
        "tf-toolkit: the job has ended, and its results are being copied; ask once more to leave them behind",
        "tf-toolkit: stopped: the results are not whole",
    ]
