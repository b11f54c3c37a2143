"""What goes wrong in a job on two hosts ends both, with the same status and the same cause."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_hosts import DIED, MIRRORED, MPI, PARAMETER_SERVERS, SILENT, Hosts, image

pytestmark = pytest.mark.containers

# A script for each distribution that trains until it is stopped.
TRAINING = {"mpi": ("containers/ranks.py", MPI), "mirrored": ("containers/wait.sh", MIRRORED)}
BOTH = pytest.mark.parametrize("distribution", TRAINING)
GARBAGE = """\
import os, socket, sys, time

connections = []
while True:
    try:
        peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1)
        peer.setblocking(False)
        connections = [*connections[-200:], peer]
        peer.send(b"GET / HTTP/1.1\\r\\n\\r\\n" if len(connections) % 2 else os.urandom(65536))
        print("sent", flush=True)
    except OSError:
        time.sleep(0.01)
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path, image()) as hosts:
        yield hosts


def train(hosts: Hosts, distribution: str) -> None:
    """Start a job on two hosts, and wait until it trains."""
    program, parameters = TRAINING[distribution]
    hosts.describe(program, parameters)
    hosts.start()
    hosts["algo-1"].wait_for("training\n")
    if distribution == "mirrored":
        hosts["algo-2"].wait_for("training\n")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("fault", "status", "headline"),
    [
        ("raise", 1, "user code: ValueError: bad (ranks.py, line {line}); exit status 1 on rank {rank}, host {host}"),
        ("kill", 137, "user code: killed by SIGKILL (exit status 137) on rank {rank}, host {host}"),
        ("exit", 3, "user code: exit status 3 on rank {rank}, host {host}"),
    ],
)
def test_a_rank_that_fails_ends_the_job_with_its_own_status_and_cause(
    hosts: Hosts, fault: str, status: int, headline: str, rank: int
) -> None:
    hosts.describe("containers/ranks.py", {**MPI, "fault": fault, "rank": rank})
    hosts.start()

    assert hosts.ends(60) == {"algo-1": status, "algo-2": status}
    lines = (hosts["algo-1"].tree.root / "code" / "ranks.py").read_text().splitlines()
    line = 1 + next(number for number, text in enumerate(lines) if "raise " in text)
    expected = headline.format(rank=rank, host=f"algo-{rank + 1}", line=line)
    assert hosts["algo-1"].headline == hosts["algo-2"].headline == expected


def test_the_open_mpi_daemon_killed(hosts: Hosts) -> None:
    train(hosts, "mpi")

    hosts.fault()
    hosts["algo-2"].kill_process("orted ")

    assert hosts.ends(DIED) == {"algo-1": 137, "algo-2": 137}
    headline = hosts["algo-1"].headline
    assert headline.startswith("cluster: ") and "SIGKILL" in headline and headline.endswith("on host algo-2")
    assert hosts["algo-2"].headline == headline


@BOTH
def test_a_launcher_killed(hosts: Hosts, distribution: str) -> None:
    train(hosts, distribution)

    hosts.kill("algo-2")

    assert hosts.ends(DIED) == {"algo-1": 68, "algo-2": 137}
    assert hosts["algo-1"].headline == "cluster: host algo-2 is gone: its launcher ended without a word"


@BOTH
def test_the_first_host_killed(hosts: Hosts, distribution: str) -> None:
    train(hosts, distribution)

    hosts.kill("algo-1")

    assert hosts.ends(DIED) == {"algo-1": 137, "algo-2": 68}
    assert hosts["algo-2"].headline == "cluster: host algo-1 is gone: its launcher ended without a word"


@BOTH
@pytest.mark.parametrize("lost", ["algo-1", "algo-2"])
def test_a_network_cut(hosts: Hosts, distribution: str, lost: str) -> None:
    train(hosts, distribution)

    hosts.cut(lost)

    assert hosts.ends(SILENT) == {"algo-1": 68, "algo-2": 68}
    for host in ("algo-1", "algo-2"):
        assert hosts[host].headline == "cluster: hosts algo-1 and algo-2 lost one another: nothing was heard for 20 s"


@pytest.mark.parametrize("host", ["algo-1", "algo-2"])
def test_a_parameter_server_killed(hosts: Hosts, host: str) -> None:
    # With one server on each host.
    hosts.describe("containers/wait.sh", {**PARAMETER_SERVERS, "sagemaker_parameter_server_mode": "estimator"})
    hosts.start()
    for name in ("algo-1", "algo-2"):
        hosts[name].wait_for("serves at", deadline=200)

    hosts.fault()
    hosts[host].kill_process("tf_toolkit.tf_server")

    assert hosts.ends(DIED) == {"algo-1": 137, "algo-2": 137}
    headline = hosts["algo-1"].headline
    assert headline.startswith("cluster: parameter server: ")
    assert headline.endswith(f"killed by SIGKILL (exit status 137) on host {host}")
    assert hosts["algo-2"].headline == headline


@BOTH
@pytest.mark.parametrize(("here", "missing"), [("algo-1", "algo-2"), ("algo-2", "algo-1")])
def test_a_host_that_never_comes_is_named(hosts: Hosts, distribution: str, here: str, missing: str) -> None:
    hosts.describe(*TRAINING[distribution])
    hosts.start(here, environment={"TF_TOOLKIT_CLUSTER_WAIT": "3"})

    assert hosts.ends(60) == {here: 68}
    assert re.match(rf"cluster: host {missing} never came within \d+ s: ", hosts[here].headline)


@BOTH
@pytest.mark.parametrize("host", ["algo-1", "algo-2"])
def test_term_to_any_host_stops_all(hosts: Hosts, distribution: str, host: str) -> None:
    train(hosts, distribution)

    hosts.kill(host, "SIGTERM")

    assert hosts.ends(DIED) == {"algo-1": 143, "algo-2": 143}
    assert hosts["algo-1"].headline.startswith("stopped: SIGTERM asked the job to end")
    assert hosts["algo-2"].headline == hosts["algo-1"].headline


def test_garbage_on_the_port_neither_stops_nor_slows_a_job(hosts: Hosts) -> None:
    hosts.describe("containers/sums.py", MPI)
    hosts.start("algo-1")
    stranger = hosts.stranger(GARBAGE, "algo-1", "7733")
    stranger.wait_for("sent\n" * 100)

    hosts.start("algo-2")
    started = time.time()

    assert hosts.ends(DIED) == {"algo-1": 0, "algo-2": 0}
    assert stranger.running
    print(f"with garbage: {hosts['algo-1'].finished - started:.2f} s from the last host's start")
