from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest

from command_line import everything, explained, finish, script, start, tf_toolkit, trap
from tf_toolkit import contract
from tf_toolkit.local import hosts, tree
from tf_toolkit.local.job import job

THREE = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
WHO = """
import os, sys
me = os.environ["SM_CURRENT_HOST"]
print("I am", me, "of", os.environ["SM_HOSTS"])
# One write: between two, a line of the launcher's own may come.
sys.stderr.write("heard\\n")
open(f"{os.environ['SM_MODEL_DIR']}/{me}", "w").write(os.environ["SM_MODEL_DIR"])
open(os.environ["SM_OUTPUT_DATA_DIR"] + "/mine", "w").write(me)
assert os.listdir(os.environ["SM_CHANNEL_TRAIN"]) == ["a.csv"]
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A person's folder: who.py, and a channel."""
    script(tmp_path, WHO, "who.py")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("1,2\n")
    return tmp_path


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def lines_of(host: str, text: str) -> list[str]:
    """What a host wrote, without its name before it."""
    prefix = f"[{host}] "
    return [line[len(prefix) :] for line in text.splitlines() if line.startswith(prefix)]


def causes(root: Path) -> set[str]:
    """The first lines of all hosts' failure files."""
    return {path.read_text().splitlines()[0] for path in root.glob("127.0.0.*/output/failure")}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hosts", "0"], "--hosts 0: give a number from 1 to 64"),
        (["--hosts", "-1"], "--hosts -1: give a number from 1 to 64"),
        (["--hosts", "65"], "--hosts 65: give a number from 1 to 64"),
        (["--hosts", "two"], "argument --hosts: invalid int value: 'two'"),
        (["--hosts", "2", "--distribution", "horovod"], "invalid choice: 'horovod'"),
        (["--hosts", "2", "--processes-per-host", "2"], "give --distribution mpi with it"),
        (
            ["--hosts", "2", "--distribution", "parameter_server", "--processes-per-host", "2"],
            "give --distribution mpi with it",
        ),
        (["--distribution", "mpi", "--processes-per-host", "0"], "--processes-per-host 0: give a number of at least 1"),
    ],
)
@pytest.mark.parametrize("command", ["run", "explain"])
def test_a_mistake_is_one_line_with_a_remedy(desk: Path, command: str, words: list[str], said: str) -> None:
    before = everything(desk)

    result = tf_toolkit(desk, command, "who.py", *words)

    assert result.status == 2
    assert said in result.log
    assert result.log.count("\n") == 1
    assert result.stdout == b""
    assert everything(desk) == before


def test_every_host_runs_the_script_in_a_tree_of_its_own_and_the_model_is_one(desk: Path) -> None:
    result = tf_toolkit(desk, "run", "who.py", "--train", "data", "--hosts", "3", "--output", "out")

    assert result.status == 0, result.log
    root, stdout = result.root, result.stdout.decode()
    assert names(root) == [tree.MARKER, *THREE, "model"]
    assert names(root / "model") == list(THREE)
    for host in THREE:
        assert lines_of(host, stdout) == [f"I am {host} of {json.dumps(THREE, separators=(',', ':'))}"]
        assert "heard" in lines_of(host, result.log)
        assert names(root / host) == ["code", "input", "model", "output"]
        assert (root / host / "output" / "success").exists()
        assert (root / host / "output" / "data" / "mine").read_text() == host
        assert (root / "model" / host).read_text() == str(root / host / "model")
        assert json.loads((root / host / "input" / "config" / "resourceconfig.json").read_text()) == {
            "current_host": host,
            "hosts": list(THREE),
            "network_interface_name": "lo",
            "current_instance_type": "local",
        }
    assert len(stdout.splitlines()) == len(THREE)
    assert result.log.splitlines()[-4:] == [
        f"tf-toolkit: model: {root}/model",
        *(f"tf-toolkit: output: {root}/{host}/output/data" for host in THREE),
    ]


def test_two_jobs_at_once_keep_out_of_each_others_way(desk: Path) -> None:
    words = ("run", "who.py", "--train", "data", "--hosts", "2", "--output")
    both = [start(desk, *words, output) for output in ("out", "other")]

    for process in both:
        result = finish(process, desk)
        assert result.status == 0, result.log


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"hosts": 2}, {}),
        (
            {"hosts": 2, "distribution": "parameter_server"},
            {"sagemaker_parameter_server_enabled": "true"},
        ),
        (
            {"hosts": 2, "distribution": "multi_worker_mirrored"},
            {"sagemaker_multi_worker_mirrored_strategy_enabled": "true"},
        ),
        (
            {"hosts": 2, "distribution": "mpi"},
            {"sagemaker_mpi_enabled": "true", "sagemaker_mpi_custom_mpi_options": '""'},
        ),
        (
            {"distribution": "mpi", "processes_per_host": 2, "hyperparameters": [f"{contract.MPI_OPTIONS}=-x A=1"]},
            {
                "sagemaker_mpi_enabled": "true",
                "sagemaker_mpi_num_of_processes_per_host": "2",
                "sagemaker_mpi_custom_mpi_options": "-x A=1",
            },
        ),
    ],
)
def test_a_distribution_is_what_the_sdk_sends_for_it(desk: Path, options: dict[str, Any], sent: dict[str, str]) -> None:
    given = {"hyperparameters": [], **options}
    described = job(
        script=str(desk / "who.py"),
        source_dir=None,
        channels=[],
        output=str(desk / "out"),
        requirements=False,
        arguments=[],
        **given,
    )

    found = tree.documents(described, described.hosts[0])["hyperparameters.json"]

    assert {name: value for name, value in found.items() if re.match(r"sagemaker_(mpi|param|multi)", name)} == sent


def test_ports_are_free_and_not_those_that_any_connection_may_get() -> None:
    first = int(hosts.variables(THREE, {})[contract.LOCAL_PORTS])
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())

    for port in range(first, first + 4 * len(THREE)):
        assert not low <= port <= high
        with socket.socket() as probe:
            probe.bind(("", port))


def test_the_key_is_a_new_one_for_each_job_unless_the_user_has_one() -> None:
    made = {hosts.variables(THREE, {})[contract.CLUSTER_KEY] for _ in range(2)}

    assert len(made) == 2
    assert all(len(key) == 64 for key in made)
    assert hosts.variables(THREE, {contract.CLUSTER_KEY: "mine"})[contract.CLUSTER_KEY] == "mine"


FAILING = """
import os, sys, time
if os.environ["SM_CURRENT_HOST"] == "127.0.0.2":
    time.sleep(0.5)
    {what}
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("what", "status", "cause"),
    [
        ("raise ValueError('no such luck')", 1, "ValueError: no such luck"),
        ("sys.exit(3)", 3, "exit status 3"),
        ("os.kill(os.getpid(), 9)", 137, "killed by SIGKILL"),
    ],
)
def test_the_first_host_to_fail_ends_all_and_its_cause_is_said_once(
    desk: Path, what: str, status: int, cause: str
) -> None:
    script(desk, FAILING.format(what=what), "train.py")

    result = tf_toolkit(desk, "run", "train.py", "--hosts", "3", "--output", "out")

    assert result.status == status, result.log
    assert all((result.root / host / "output" / "failure").exists() for host in THREE)
    (headline,) = causes(result.root)
    assert cause in headline
    assert headline.endswith(" on host 127.0.0.2")
    said = [line for line in result.log.splitlines() if line.startswith("tf-toolkit: failure: ")]
    assert said == [f"tf-toolkit: failure: {result.root}/127.0.0.1/output/failure: {headline}"]


def begun(desk: Path, text: str) -> Any:
    """A job of three hosts whose scripts have all said so."""
    script(desk, text, "train.py")
    process = start(desk, "run", "train.py", "--hosts", "3", "--output", "out")
    assert process.stdout is not None
    assert {process.stdout.readline().decode() for _ in THREE} == {f"[{host}] begun\n" for host in THREE}
    return process


def left_running(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_reaches_every_host_and_leaves_nothing_running(desk: Path, number: signal.Signals) -> None:
    process = begun(desk, trap("$SM_CURRENT_HOST"))
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) >= 3 * len(THREE)

    process.send_signal(number)
    result = finish(process, desk)

    assert names(result.root / "model") == list(THREE)
    assert {(result.root / "model" / host).read_text() for host in THREE} == {str(int(number))}
    assert result.status == 0, result.log
    assert left_running(below) == []
    assert "Traceback" not in result.log


def test_a_host_that_is_killed_ends_the_job_and_is_named(desk: Path) -> None:
    process = begun(desk, "import time\nprint('begun', flush=True)\ntime.sleep(600)")
    assert process.stderr is not None
    while b"[127.0.0.2]" not in (line := process.stderr.readline()) or b"cluster: joined" not in line:
        assert line
    below = psutil.Process(process.pid).children(recursive=True)
    (killed,) = (
        child
        for child in below
        if child.environ().get("SAGEMAKER_BASE_DIR", "").endswith("/127.0.0.2") and child.ppid() == process.pid
    )

    killed.kill()
    result = finish(process, desk)

    assert result.status == contract.CLUSTER_FAILED, result.log
    assert causes(result.root) == {"cluster: host 127.0.0.2 is gone: its launcher ended without a word"}
    assert "host 127.0.0.2 is gone" in result.log.splitlines()[-1]
    assert left_running(below) == []


WRITES = """
import os, sys
me = os.environ["SM_CURRENT_HOST"].encode()
for n in range(2000):
    for stream in (1, 2):
        os.write(stream, me + b" " + b"x" * (n % 300))
        os.write(stream, b" end\\n")
os.write(1, b"10%\\r20%\\r\\n" + b"y" * 300_000 + b"\\n\\n\\xff\\xfe\\nno end")
"""


def test_lines_of_hosts_are_whole_and_say_whose_they_are(desk: Path) -> None:
    script(desk, WRITES, "train.py")

    result = tf_toolkit(desk, "run", "train.py", "--hosts", "3")

    assert result.status == 0, result.log
    for host in THREE:
        prefix = f"[{host}] ".encode()
        written = [line for line in result.stdout.split(b"\n") if line.startswith(prefix)]
        assert [line for line in written if line.endswith(b" end")][:2000] == [
            prefix + host.encode() + b" " + b"x" * (n % 300) + b" end" for n in range(2000)
        ]
        progress = written.index(prefix + b"10%\r20%\r")
        long = [line.removeprefix(prefix) for line in written[progress + 1 : -3]]
        assert b"".join(long) == b"y" * 300_000
        assert written[-3:] == [prefix, prefix + b"\xff\xfe", prefix + b"no end"]
    for stream in (result.stdout, result.stderr):
        assert all(re.match(rb"\[127\.0\.0\.[123]\] |tf-toolkit: |$", line) for line in stream.split(b"\n"))


def test_hosts_of_an_earlier_run_are_replaced_and_what_is_not_ours_stays(desk: Path) -> None:
    words = ("run", "who.py", "--train", "data", "--output", "out")
    assert tf_toolkit(desk, *words, "--hosts", "3").status == 0
    root = desk / "out"
    (root / "127.0.0.2" / "notes.txt").write_text("mine")
    (root / "127.0.0.9").symlink_to(desk / "data")

    result = tf_toolkit(desk, *words)

    assert result.status == 0, result.log
    assert names(root) == [tree.MARKER, "127.0.0.2", "127.0.0.9", "code", "input", "model", "output"]
    assert names(root / "127.0.0.2") == ["notes.txt"]
    assert names(root / "model") == ["algo-1"]
    assert names(desk / "data") == ["a.csv"]
    assert tf_toolkit(desk, *words, "--hosts", "2").status == 0
    assert names(root) == [tree.MARKER, "127.0.0.1", "127.0.0.2", "127.0.0.9", "model"]


def test_explain_shows_the_first_hosts_view_and_starts_nothing(desk: Path) -> None:
    words = ("who.py", "--train", "data", "--output", "out", "--hosts", "2", "--distribution", "mpi")

    found = explained(desk, *words, "--processes-per-host", "2")

    assert (found["root"], found["current_host"]) == (str(desk / "out" / "127.0.0.1"), "127.0.0.1")
    assert found["hosts"] == ["127.0.0.1", "127.0.0.2"]
    assert found["strategy"] == "mpi"
    assert found["channels"] == {"train": str(desk / "out" / "127.0.0.1" / "input" / "data" / "train")}
    (process,) = found["processes"]
    assert "127.0.0.1:2" in " ".join(process["command"])
    assert process["variables"][contract.CLUSTER_KEY] == "******"
    assert not (desk / "out").exists()
    assert "tf-toolkit-explain-" not in json.dumps(found)


def test_hosts_that_share_an_environment_install_into_it_one_after_another(desk: Path) -> None:
    # It is there, so nothing is fetched.
    script(desk, "psutil\n", "requirements.txt")

    result = tf_toolkit(desk, "run", "who.py", "--train", "data", "--hosts", "3", "--requirements")

    assert result.status == 0, result.log
    # The installer is started, and is done.
    in_turn = re.findall(
        r"^\[(\S+)\] \S+ \S+ tf-toolkit INFO +(?:install: .* --requirement|installed: )", result.log, re.M
    )
    assert sorted(in_turn) == sorted(2 * THREE)
    assert in_turn[::2] == in_turn[1::2]
