"""Jobs of every strategy on several hosts of this machine: real mpirun and ranks, real servers, and faults."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from conftest import wait_until
from hosts import Hosts, causes
from test_train import HOSTILE, hostile_arguments

# TensorFlow's servers take seconds to start, and so much longer on a loaded machine.
TENSORFLOW_DEADLINE = 300.0
SUM = """\
import json, os
from mpi4py import MPI
world = MPI.COMM_WORLD
local = world.Split_type(MPI.COMM_TYPE_SHARED)
seen = {"rank": world.rank, "size": world.size, "local": local.rank, "locals": local.size,
        "sum": world.allreduce(world.rank + 1), "host": os.environ["SM_CURRENT_HOST"],
        "local_rank": os.environ["OMPI_COMM_WORLD_LOCAL_RANK"]}
print(json.dumps(seen))
"""
# Rank 3, on the second host, does what the test says, while the others wait for it.
RANKS = """\
import os, signal, sys, time
from mpi4py import MPI
world = MPI.COMM_WORLD
print("up", flush=True)
world.barrier()
if world.rank == 3:
    {fault}
world.recv(source=world.size - 1) if world.rank != 3 else time.sleep(600)
"""


def said(text: str) -> list[str]:
    """What the ranks printed, without their tags."""
    return [line.partition(">:")[2] for line in text.splitlines() if line.startswith("[1,mpirank:")]


def test_two_hosts_of_two_ranks_find_their_places_and_add_up(tmp_path: Path) -> None:
    results = Hosts(tmp_path, 2, SUM, "mpi").run()
    assert causes(results) == {""}
    seen = sorted(
        (json.loads(line) for line in said(results["127.0.0.1"].stdout.decode())), key=lambda rank: rank["rank"]
    )
    assert seen == [
        {
            "rank": rank,
            "size": 4,
            "local": rank % 2,
            "locals": 2,
            "sum": 10,
            "host": f"127.0.0.{rank // 2 + 1}",
            "local_rank": str(rank % 2),
        }
        for rank in range(4)
    ]
    assert [result.status for result in results.values()] == [0, 0]


def test_ranks_that_end_at_once_end_well_on_every_host(tmp_path: Path) -> None:
    results = Hosts(tmp_path, 3, "print('done')\n", "mpi").run()
    assert causes(results) == {""}
    assert said(results["127.0.0.1"].stdout.decode()) == ["done"] * 6


def test_every_rank_gets_arguments_and_variables_unchanged(tmp_path: Path) -> None:
    code = "import json, os, sys\nprint(json.dumps([sys.argv[1:], os.environ['SM_HPS'], os.environ['USERS']]))\n"
    values = {name: json.dumps(value) for name, value in HOSTILE.items()}
    hosts = Hosts(tmp_path, 2, code, "mpi", colon=":", **values)
    hosts.set(USERS="a'b\"c\n$(touch pwned)")
    results = hosts.run()
    assert causes(results) == {""}
    expected = sorted([*zip(hostile_arguments()[::2], hostile_arguments()[1::2]), ("--colon", ":")])
    for line in said(results["127.0.0.1"].stdout.decode()):
        arguments, hyperparameters, users = json.loads(line)
        assert list(zip(arguments[::2], arguments[1::2])) == expected
        assert json.loads(hyperparameters) == {**HOSTILE, "colon": ":"}
        assert users == "a'b\"c\n$(touch pwned)"
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("fails", [False, True])
def test_a_host_outside_the_distributions_groups_runs_the_script_alone(tmp_path: Path, fails: bool) -> None:
    """And begins and ends with the others."""
    code = (
        "import os, sys\n"
        "print(os.environ['SM_CURRENT_HOST'], os.environ.get('OMPI_COMM_WORLD_SIZE'), flush=True)\n"
        f"if {fails} and 'OMPI_COMM_WORLD_SIZE' not in os.environ: sys.exit(3)\n"
    )
    hosts = Hosts(tmp_path, 3, code, "mpi", sagemaker_distribution_instance_groups='["train"]')
    hosts.group(data=["127.0.0.1"], train=["127.0.0.2", "127.0.0.3"])
    results = hosts.run()
    assert results["127.0.0.1"].stdout == b"127.0.0.1 None\n"
    if fails:
        assert causes(results) == {"user code: exit status 3 on host 127.0.0.1"}
        assert [result.status for result in results.values()] == [3, 3, 3]
    else:
        assert causes(results) == {""}
        ranks = said(results["127.0.0.2"].stdout.decode())
        assert sorted(ranks) == ["127.0.0.2 4", "127.0.0.2 4", "127.0.0.3 4", "127.0.0.3 4"]
    assert said(results["127.0.0.3"].stdout.decode()) == []


def test_mirrored_training_under_mpi_has_both(tmp_path: Path) -> None:
    code = "import os\nprint(os.environ['OMPI_COMM_WORLD_RANK'], os.environ['TF_CONFIG'])\n"
    flags = {"sagemaker_multi_worker_mirrored_strategy_enabled": "true", "sagemaker_mpi_num_of_processes_per_host": "1"}
    results = Hosts(tmp_path, 2, code, "mpi", **flags).run()
    tasks = dict(line.split(" ", 1) for line in said(results["127.0.0.1"].stdout.decode()))
    assert {rank: json.loads(text)["task"]["index"] for rank, text in tasks.items()} == {"0": 0, "1": 1}


def test_one_host_of_four_ranks(tmp_path: Path) -> None:
    results = Hosts(tmp_path, 1, SUM, "mpi", sagemaker_mpi_num_of_processes_per_host="4").run()
    assert causes(results) == {""}
    assert sorted(json.loads(line)["local"] for line in said(results["127.0.0.1"].stdout.decode())) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("fault", "status", "cause"),
    [
        ("raise ValueError('bad learning rate')", 1, r"user code: ValueError: bad learning rate \(train.py, line 7\)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "user code: killed by SIGKILL"),
        ("os._exit(3)", 3, "user code: exit status 3"),
        ("sys.exit('no data')", 1, "user code: no data; exit status 1"),
    ],
)
def test_a_rank_fails(tmp_path: Path, fault: str, status: int, cause: str) -> None:
    results = Hosts(tmp_path, 2, RANKS.format(fault=fault), "mpi").run()
    assert [result.status for result in results.values()] == [status, status]
    (found,) = causes(results)
    assert re.match(rf"{cause}.* on rank 3, host 127\.0\.0\.2$", found)


def test_an_mpi_program_that_aborts(tmp_path: Path) -> None:
    results = Hosts(tmp_path, 2, RANKS.format(fault="world.Abort(5)"), "mpi").run()
    assert len(causes(results)) == 1
    assert {result.status for result in results.values()} == {5}
    assert "rank 3, host 127.0.0.2" in causes(results).pop()


@pytest.mark.parametrize("name", ["127.0.0.1", "127.0.0.2"])
def test_open_mpi_is_killed(tmp_path: Path, name: str) -> None:
    """mpirun on the first host, its daemon on the other."""
    hosts = Hosts(tmp_path, 2, RANKS.format(fault="pass"), "mpi")
    hosts.start()
    wait_until(lambda: hosts.out("127.0.0.1").count("up") == 4, "all ranks are up")
    (daemon,) = [
        child
        for child in psutil.Process(hosts.processes[name].pid).children()
        if child.name() in ("orted", "prted", "mpirun", "prterun", "orterun")
    ]
    daemon.kill()
    results = hosts.finish()
    assert [result.status for result in results.values()] == [137, 137]
    (cause,) = causes(results)
    assert re.match(rf"cluster: (mpirun|Open MPI daemon): killed by SIGKILL .* on host {re.escape(name)}$", cause)


@pytest.mark.parametrize("name", ["127.0.0.1", "127.0.0.2"])
def test_a_launcher_of_ranks_is_killed(tmp_path: Path, name: str) -> None:
    hosts = Hosts(tmp_path, 2, RANKS.format(fault="pass"), "mpi")
    hosts.start()
    wait_until(lambda: hosts.out("127.0.0.1").count("up") == 4, "all ranks are up")
    hosts.kill(name)
    results = hosts.finish()
    del results[name]
    assert [result.status for result in results.values()] == [68]
    assert causes(results) == {f"cluster: host {name} is gone: its launcher ended without a word"}


@pytest.mark.parametrize("status", [0, 9])
@pytest.mark.parametrize("name", ["127.0.0.1", "127.0.0.2"])
def test_a_stop_gives_every_rank_the_time_to_save(tmp_path: Path, name: str, status: int) -> None:
    code = (
        "import os, signal, sys, time\n"
        "def save(*_):\n"
        "    rank = int(os.environ['OMPI_COMM_WORLD_RANK'])\n"
        "    time.sleep(rank)\n"
        "    open(os.path.join(os.environ['HOSTS'], f'saved-{rank}'), 'w').close()\n"
        f"    sys.exit({status})\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(0.1)\n"
    )
    hosts = Hosts(tmp_path, 2, code, "mpi")
    hosts.start()
    wait_until(lambda: hosts.out("127.0.0.1").count("up") == 4, "all ranks are up")
    hosts.kill(name, signal.SIGTERM)
    results = hosts.finish()
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == [f"saved-{rank}" for rank in range(4)]
    assert [result.status for result in results.values()] == [status, status]
    (cause,) = causes(results)
    if status != 0:
        assert cause.startswith("stopped: SIGTERM asked the job to end")
        assert cause.endswith(f"host {name}")


def test_parameter_servers_last_as_long_as_the_scripts(tmp_path: Path) -> None:
    code = (
        "import json, os, socket, time\n"
        "cluster = json.loads(os.environ['TF_CONFIG'])['cluster']\n"
        "for address in cluster['ps']:\n"
        "    host, port = address.split(':')\n"
        "    while True:\n"
        "        try: socket.create_connection((host, int(port))).close(); break\n"
        "        except OSError: time.sleep(0.1)\n"
        "print(json.dumps(json.loads(os.environ['TF_CONFIG'])['task']))\n"
    )
    results = Hosts(tmp_path, 2, code, "parameter_server").run(TENSORFLOW_DEADLINE)
    assert causes(results) == {""}
    assert json.loads(results["127.0.0.1"].stdout) == {"index": 0, "type": "master"}
    assert json.loads(results["127.0.0.2"].stdout) == {"index": 0, "type": "worker"}


def test_a_parameter_server_is_killed(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, 2, "import time\nprint('up', flush=True)\ntime.sleep(600)\n", "parameter_server")
    hosts.start()
    hosts.wait_for("up")
    (server,) = [
        child
        for child in psutil.Process(hosts.processes["127.0.0.2"].pid).children()
        if "tf_toolkit.tf_server" in child.cmdline()
    ]
    os.kill(server.pid, signal.SIGKILL)
    results = hosts.finish()
    assert [result.status for result in results.values()] == [137, 137]
    (cause,) = causes(results)
    assert cause == "cluster: parameter server: killed by SIGKILL (exit status 137) on host 127.0.0.2"
