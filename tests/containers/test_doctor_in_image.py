"""`scripts/check-image`, and so `tf-toolkit doctor`, in the image: under the limits that containers are given."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from docker_hosts import ROOT, TENSORFLOWS, image

from conftest import Job

pytestmark = pytest.mark.containers

CHECK_IMAGE = str(ROOT / "scripts" / "check-image")
# Ten times what frameworks take to be imported in a container on a busy machine.
LONG = 600.0


def check_image(*words: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CHECK_IMAGE, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
        timeout=LONG,
        check=False,
    )


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    """State and finding of each check."""
    found = re.findall(r"^(pass|warn|fail)  (.{19})(.+)$", done.stdout, re.MULTILINE)
    assert len(found) == 20, (done.stdout, done.stderr)
    return {name.rstrip(): (state, text) for state, name, text in found}


@pytest.mark.parametrize("tensorflow", TENSORFLOWS)
def test_the_image_is_fit(tensorflow: str) -> None:
    done = check_image(image(tensorflow))

    found = checks(done)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert found["train"] == ("pass", "/opt/venv/bin/train")
    assert found["TensorFlow"] == ("pass", f"{tensorflow}, built without CUDA")
    assert found["Horovod"] == ("pass", "0.28.1 with MPI and TensorFlow joins 2 ranks")
    assert found["network interface"] == ("pass", "eth0")
    assert found["results"] == ("pass", "/opt/ml/model and /opt/ml/output can be written")
    assert {state for state, _ in found.values()} == {"pass"}, done.stdout


def test_limits_that_jobs_can_live_with() -> None:
    limits = ("--user", "1000", "--network", "none", "--shm-size", "16m", "--cpus", "1", "--memory", "900m")
    command = ["docker", "run", "--rm", *limits, image(), "tf-toolkit", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    found = {check["check"]: (check["state"], check["found"]) for check in json.loads(done.stdout)}
    assert {name: text for name, (state, text) in found.items() if state != "pass"} == {
        "memory": "limited to 900 MiB",
        "shared memory": "16 MiB free in /dev/shm",
    }
    assert found["network interface"] == ("pass", "lo")
    assert found["mpirun"] == ("pass", "Open MPI 4.1.4 runs 2 ranks")
    assert found["CPUs"] == ("pass", f"1 of the machine's {os.cpu_count()}")


def test_a_root_filesystem_that_is_read_only() -> None:
    done = check_image(image(), "--read-only", "--tmpfs", "/tmp", "--tmpfs", "/opt/ml", "--user", "1000")

    assert done.returncode == 0, done.stdout
    assert {state for state, _ in checks(done).values()} == {"pass"}, done.stdout


def test_nowhere_to_write(tmp_path: Path) -> None:
    tree = Job(tmp_path / "ml")
    tree.root.chmod(0o755)

    done = check_image(image(), "--read-only", "--user", "1000", "--volume", f"{tree.root}:/opt/ml")

    found = checks(done)
    assert done.returncode == 1
    assert found["results"] == ("fail", "user 1000 cannot write: /opt/ml/model: Permission denied")
    assert found["temporary files"][0] == "fail"
    assert found["mpirun"][0] == "fail"
    assert "docker run --tmpfs /tmp" in done.stdout


def test_a_job_of_the_newer_local_mode(tmp_path: Path) -> None:
    tree = Job(tmp_path / "ml")
    tree.config(
        "resourceconfig",
        {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"], "network_interface_name": "ethwe"},
    )

    found = checks(check_image(image(), "--hostname", "algo-1", "--volume", f"{tree.root}:/opt/ml"))

    assert found["network interface"] == (
        "warn",
        "resourceconfig.json names 'ethwe', which is not here; jobs use 'eth0' instead",
    )
    assert found["hosts"] == ("warn", "algo-1, 2 in all; these names do not resolve: algo-2")
    assert found["mpirun"][0] == "pass"


def test_what_check_image_does_without_an_image_or_docker(tmp_path: Path) -> None:
    (tmp_path / "sed").symlink_to("/bin/sed")
    (tmp_path / "bash").symlink_to("/bin/bash")

    usage = check_image()
    none = check_image("image", path=str(tmp_path))

    assert (usage.returncode, usage.stderr) == (2, "usage: scripts/check-image IMAGE [DOCKER ARGUMENT...]\n")
    assert (none.returncode, none.stderr) == (
        2,
        "scripts/check-image: there is no docker on PATH: install Docker, or run 'tf-toolkit doctor' in the image\n",
    )
