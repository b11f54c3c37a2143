"""The image by itself: what can be run in it, and what is not in it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_hosts import Hosts, image, seen

pytestmark = pytest.mark.containers


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path, image()) as hosts:
        yield hosts


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", "run", "--rm", *arguments], capture_output=True, text=True, check=False)


def test_a_job_on_one_host(hosts: Hosts) -> None:
    hosts.describe("dump.py", {"epochs": 3}, names=("algo-1",))
    hosts.start()

    assert hosts.ends(60) == {"algo-1": 0}
    assert (hosts["algo-1"].tree.root / "model" / "seen.json").exists()


def test_mpi_on_one_host_as_a_user_who_is_not_root(hosts: Hosts) -> None:
    parameters = {"sagemaker_mpi_enabled": True, "sagemaker_mpi_num_of_processes_per_host": 2}
    hosts.describe("containers/sums.py", parameters, names=("algo-1",))
    hosts.start(user="1000")

    assert hosts.ends(60) == {"algo-1": 0}
    assert [seen(hosts["algo-1"], f"rank-{number}.json")["sum"] for number in (0, 1)] == [3, 3]


@pytest.mark.parametrize("user", ["0", "1000"])
def test_any_other_command_is_run_as_it_stands(user: str) -> None:
    done = run("--user", user, image(), "bash", "-c", 'echo "$(id -u) $0 $1"', "a b", "*")

    assert (done.returncode, done.stdout) == (0, f"{user} a b *\n")


def test_it_has_what_jobs_need_and_neither_a_compiler_nor_a_server_for_logins() -> None:
    code = "import tensorflow, mpi4py.MPI, boto3, tf_toolkit; print(tensorflow.__version__)"

    assert run(image(), "python", "-c", code).stdout.startswith("2.15.1")
    assert "Open MPI" in run(image(), "mpirun", "--version").stdout
    assert (
        run(image(), "sh", "-c", "command -v gcc cc g++ make sshd || ls /etc/ssh/*key* || ls -A /root/.ssh").stdout
        == ""
    )
