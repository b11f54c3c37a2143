"""Open MPI's daemons through the door: the agent alone, and real jobs on two nodes of this machine."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import door as doors
from conftest import DEADLINE, wait_until
from door import Door
from open_mpi import ENVIRON, Host, host, script
from tf_toolkit import contract
from tf_toolkit.contract import DOOR
from tf_toolkit.lines import Lines
from tf_toolkit.process import Command
from tf_toolkit.rsh import daemon_arguments
from tf_toolkit.strategies import mpi

HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
HOSTILE = ["", "a b", "it's", '"', "$(touch /tmp/owned)", "line\nbreak", ":", "-mca", "é"]
# Here no launcher ends mpirun when the ranks have ended.
QUICK = "-mca odls_base_sigkill_timeout 1"
NODES = ["-mca", "orte_node_regex", "vm,[3:1-2]@0(3)", "-np", "2"]
URI = ["--prtemca", "prte_hnp_uri", "1.0;tcp://10.0.0.1:5"]


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["orted", "-mca", "ess", '"env"'], ["-mca", "ess", "env"]),
        (["", "orted -mca orte_node_regex 'vm,[3:1-2]@0(3)' --daemonize", "-np", "2"], NODES),
        (
            ["PATH=/opt/bin:$PATH", ";", "export", "PATH", ";/opt/bin/orted", "-mca", "a", "'b c;d'"],
            ["-mca", "a", "b c;d"],
        ),
        (["prted", "--prtemca", "prte_hnp_uri", '"1.0;tcp://10.0.0.1:5"'], URI),
        (["ls", "-l"], None),
        (["orted", "'"], None),
    ],
)
def test_the_daemon_s_arguments(words: list[str], arguments: list[str] | None) -> None:
    assert daemon_arguments(words) == arguments


def rsh(door: Door, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-E", "-m", "tf_toolkit.rsh", *words]
    environ = {**os.environ, DOOR: str(door.path)}
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_the_agent_asks_and_ends_with_the_daemon_s_status() -> None:
    with doors.opened() as door:
        door.daemon = lambda node, arguments: subprocess.Popen(["/bin/sh", "-c", "exit 5"])
        assert doors.finished(rsh(door, "algo-2", "orted", "-mca", "x", '"y z"'))[0] == 5
        assert door.asked == [{"type": "daemon", "node": "algo-2", "arguments": ["-mca", "x", "y z"]}]


def test_the_agent_without_a_launcher() -> None:
    with doors.opened() as door:
        door.close()
        door.path.unlink()
        assert doors.finished(rsh(door, "algo-2", "orted"))[0] == 1
        status, _, stderr = doors.finished(rsh(door, "algo-2", "ls"))
        assert status == 2
        assert b"found no daemon" in stderr


class Ended:
    """How a job's mpirun ended, and what its ranks printed."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.status, stdout, self.stderr = doors.finished(process)
        reader = Lines()
        self.stdout = reader.feed(stdout) + reader.flush()
        self.ranks: dict[int, list[bytes]] = defaultdict(list)
        self.hosts: dict[int, bytes] = {}
        for line in self.stdout.split(b"\n"):
            if opening := re.match(rb"\[1,mpirank:(\d+),([\w.-]+)\]<stdout>:", line):
                self.ranks[int(opening[1])].append(line[opening.end() :])
                self.hosts[int(opening[1])] = opening[2]


class Job:
    """A door for each host; the daemons that mpirun asks for are started as the hosts' launchers would."""

    def __init__(self, members: Sequence[Host], command: Command, stack: contextlib.ExitStack) -> None:
        self.command = command
        self.doors: list[Door] = []
        self.members: list[Host] = []
        self.daemons: list[subprocess.Popen[bytes]] = []
        for member in members:
            argv, cwd = mpi.rank_command(member.config, command, member.env)
            door = stack.enter_context(doors.opened(argv, cwd))
            door.daemon = self._daemon
            self.doors.append(door)
            variables = {**member.env.variables, DOOR: str(door.path)}
            self.members.append(member._replace(env=member.env._replace(variables=variables)))

    def start(self) -> subprocess.Popen[bytes]:
        first = self.members[0]
        (spec,) = mpi.processes(first.config, self.command, first.env)
        return doors.started(spec)

    def run(self) -> Ended:
        return Ended(self.start())

    def door_of(self, rank: int) -> Door:
        door: Door = wait_until(lambda: next((d for d in self.doors if rank in d.ranks), None), f"rank {rank}")
        return door

    def _daemon(self, node: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        name = mpi.host_of_node(self.members[0].config, node)
        member = next(member for member in self.members if member.config.current_host == name)
        spec = mpi.daemon(member.config, self.command, member.env, arguments)
        daemon = doors.started(spec, stdout=None, stderr=None)
        self.daemons.append(daemon)
        return daemon


@contextlib.contextmanager
def job(
    root: Path, code: str, hosts: Sequence[str], *arguments: str, slots: int = 1, options: str = ""
) -> Iterator[Job]:
    command = script(root, code)
    parameters = {contract.MPI_PROCESSES_PER_HOST: slots, contract.MPI_OPTIONS: options}
    members = [
        host(
            root, name, hosts, arguments=arguments, environ={**ENVIRON, "OWN": f"of {name}"}, hyperparameters=parameters
        )
        for name in hosts
    ]
    with contextlib.ExitStack() as stack:
        running = Job(members, command, stack)
        try:
            yield running
        finally:
            for daemon in running.daemons:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(daemon.pid, signal.SIGKILL)


SUM = """
import json, os, sys
from mpi4py import MPI
world = MPI.COMM_WORLD
local = world.Split_type(MPI.COMM_TYPE_SHARED)
big = bytearray(10_000_000)
world.Bcast(big)
print(json.dumps([world.allreduce(world.rank + 1), world.rank, world.size, local.rank, local.size,
    os.environ["SM_CURRENT_HOST"], os.environ["OWN"], os.getcwd(), sys.argv[1:]]))
"""


def test_two_hosts_of_two_ranks(tmp_path: Path) -> None:
    with job(tmp_path, SUM, HOSTS[:2], *HOSTILE, slots=2) as running:
        ended = running.run()
        assert ended.status == 0, ended.stderr
        for number in range(4):
            name = HOSTS[number // 2]
            expected = [10, number, 4, number % 2, 2, name, f"of {name}", str(tmp_path), HOSTILE]
            assert [json.loads(line) for line in ended.ranks[number]] == [expected]
            assert ended.hosts[number] == name.encode()


def test_three_hosts(tmp_path: Path) -> None:
    with job(tmp_path, SUM, HOSTS) as running:
        ended = running.run()
        assert ended.status == 0, ended.stderr
        assert [ended.ranks[number][0][:12] for number in range(3)] == [
            b"[6, 0, 3, 0,",
            b"[6, 1, 3, 0,",
            b"[6, 2, 3, 0,",
        ]


PRINTS = """
import os
rank = int(os.environ["PMIX_RANK"])
for number in range(5000):
    print("rank", rank, "line", number)
    if number == 2500:
        print("L" * 10_000)
"""


def test_lines_stay_whole(tmp_path: Path) -> None:
    """PYTHONUNBUFFERED makes several writes of each."""
    with job(tmp_path, PRINTS, HOSTS[:2], slots=2) as running:
        assert running.members[0].env.variables["PYTHONUNBUFFERED"] == "1"
        ended = running.run()
        assert ended.status == 0, ended.stderr
        for number in range(4):
            expected = [b"rank %d line %d" % (number, line) for line in range(5000)]
            expected.insert(2501, b"L" * 10_000)
            assert ended.ranks[number] == expected


RAISES = """
import time
from mpi4py import MPI
world = MPI.COMM_WORLD
world.Barrier()
if world.rank == 3:
    raise ValueError("bad")
world.Barrier()
"""


def test_a_rank_that_raises_is_named_before_mpirun_ends(tmp_path: Path) -> None:
    with job(tmp_path, RAISES, HOSTS[:2], slots=2) as running:
        process = running.start()
        end = running.door_of(3).end_of(3)
        assert (end["status"], end["signal"], end["told"]) == (1, None, False)
        assert b"ValueError: bad" in base64.b64decode(end["stderr"])
        assert process.poll() is None
        running.daemons[0].kill()
        os.killpg(process.pid, signal.SIGKILL)
        # What was said before the end is out by then.
        assert b"ValueError: bad" in Ended(process).stderr


def test_a_rank_that_exits_without_mpi_leaves_the_others_their_time(tmp_path: Path) -> None:
    code = """
import os, signal, sys, time
if os.environ["PMIX_RANK"] == "1":
    sys.exit(3)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("saved")))
print("ready")
while True:
    time.sleep(0.1)
"""
    with job(tmp_path, code, HOSTS[:2], options=QUICK) as running:
        process = running.start()
        end = running.door_of(1).end_of(1)
        assert (end["status"], end["told"]) == (3, False)
        assert process.poll() is None
        first = running.door_of(0)
        # Not before it can hear it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        first.say(0, type="signal", number=int(signal.SIGTERM))
        assert first.end_of(0)["status"] == 0
        running.door_of(1).say(1, type="leave")
        ended = Ended(process)
        assert ended.status == 3
        assert ended.ranks[0] == [b"ready", b"saved"]


def test_a_daemon_that_is_killed_ends_mpirun(tmp_path: Path) -> None:
    with job(tmp_path, "import time; time.sleep(600)", HOSTS[:2], options=QUICK) as running:
        process = running.start()
        running.door_of(1)
        running.daemons[0].kill()
        # Its own status says little: Open MPI 5's is 0 then.
        doors.finished(process)


def test_output_is_read_while_it_comes(tmp_path: Path) -> None:
    code = "import time; print('first'); time.sleep(600)"
    with job(tmp_path, code, HOSTS[:1], options=QUICK) as running:
        process = running.start()
        reader, seen = Lines(), [b""]

        def reads() -> None:
            assert process.stdout is not None
            while chunk := os.read(process.stdout.fileno(), 4096):
                seen[0] += reader.feed(chunk)

        thread = threading.Thread(target=reads)
        thread.start()
        wait_until(lambda: b"<stdout>:first\n" in seen[0], "the first line")
        running.doors[0].say(0, type="leave")
        assert process.wait(DEADLINE) == 1
        thread.join(DEADLINE)
