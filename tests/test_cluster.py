"""The hosts of a job: they find one another, begin together, and end together with one verdict."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import DEADLINE, wait_until
from hosts import Hosts, causes
from tf_toolkit import frames
from tf_toolkit.cluster.connection import GONE_SECONDS, Connection, Dropped
from tf_toolkit.cluster.leader import LATE_SECONDS, Leader, Reply

SLEEP = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"
MIRRORED = "multi_worker_mirrored"


def test_two_hosts_end_together_with_success(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, 2, "import os\nprint(os.environ['SM_CURRENT_HOST'])\n", MIRRORED)
    results = hosts.run()
    assert {name: (result.status, result.stdout.decode()) for name, result in results.items()} == {
        name: (0, f"{name}\n") for name in hosts.names
    }
    assert causes(results) == {""}


def test_a_host_that_is_done_waits_for_one_that_fails(tmp_path: Path) -> None:
    """The first container to exit decides a job in the SDK's local mode."""
    code = (
        "import os, time\n"
        "if os.environ['SM_CURRENT_HOST'] == '127.0.0.2':\n"
        "    while not os.path.exists(os.environ['HOSTS'] + '/done'): time.sleep(0.01)\n"
        "    time.sleep(1)\n"
        "    raise ValueError('shard 17')\n"
        "open(os.environ['HOSTS'] + '/done', 'w')\n"
    )
    results = Hosts(tmp_path, 2, code).run()
    assert [result.status for result in results.values()] == [1, 1]
    (cause,) = causes(results)
    assert cause == "user code: ValueError: shard 17 (train.py, line 5); exit status 1 on host 127.0.0.2"
    assert not any(result.succeeded for result in results.values())


@pytest.mark.parametrize("name", ["127.0.0.1", "127.0.0.2", "127.0.0.3"])
def test_the_first_failure_ends_all_with_its_cause(tmp_path: Path, name: str) -> None:
    code = f"import os, sys, time\nif os.environ['SM_CURRENT_HOST'] == {name!r}: sys.exit(3)\ntime.sleep(600)\n"
    results = Hosts(tmp_path, 3, code, MIRRORED).run()
    assert [result.status for result in results.values()] == [3, 3, 3]
    assert causes(results) == {f"user code: exit status 3 on host {name}"}


def test_an_exception_is_the_cause_though_another_host_ends_before(tmp_path: Path) -> None:
    """The one that raised takes long to end, and another dies of it meanwhile."""
    code = (
        "import atexit, os, sys, time\n"
        "mark = os.environ['HOSTS'] + '/raised'\n"
        "def linger():\n"
        "    open(mark, 'w').close()\n"
        "    time.sleep(600)\n"
        "if os.environ['SM_CURRENT_HOST'] == '127.0.0.2':\n"
        "    atexit.register(linger)\n"
        "    raise ValueError('the first')\n"
        "while not os.path.exists(mark): time.sleep(0.01)\n"
        # As long as it takes to notice: on a busy machine not even the traceback is read by now.
        "time.sleep(1)\n"
        "raise RuntimeError('a consequence')\n"
    )
    results = Hosts(tmp_path, 2, code, MIRRORED).run()
    (cause,) = causes(results)
    assert "ValueError: the first" in cause
    assert cause.endswith("on host 127.0.0.2")


@pytest.mark.parametrize("name", ["127.0.0.1", "127.0.0.2"])
def test_a_launcher_is_killed(tmp_path: Path, name: str) -> None:
    hosts = Hosts(tmp_path, 3, SLEEP, MIRRORED)
    hosts.start()
    hosts.wait_for("up")
    hosts.kill(name)
    results = hosts.finish()
    assert results.pop(name).status == -signal.SIGKILL
    assert [result.status for result in results.values()] == [68, 68]
    assert causes(results) == {f"cluster: host {name} is gone: its launcher ended without a word"}


def test_a_host_that_says_nothing_any_more(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, 2, SLEEP, MIRRORED)
    hosts.start()
    hosts.wait_for("up")
    hosts.kill("127.0.0.2", signal.SIGSTOP)
    wait_until(lambda: hosts.processes["127.0.0.1"].poll() is not None, "the other host has ended", 10 * 60.0)
    hosts.kill("127.0.0.2", signal.SIGKILL)
    results = hosts.finish()
    assert results["127.0.0.1"].status == 68
    assert (
        "cluster: hosts 127.0.0.1 and 127.0.0.2 lost one another: nothing was heard for 60 s"
        in results["127.0.0.1"].failure
    )


def test_a_launcher_without_cpu_is_waited_for_longer_than_a_host_that_is_gone(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "print('up', flush=True)\n"
        "while not os.path.exists(os.environ['HOSTS'] + '/done'): time.sleep(0.1)\n"
    )
    hosts = Hosts(tmp_path, 2, code, MIRRORED)
    hosts.start()
    hosts.wait_for("up")
    hosts.kill("127.0.0.2", signal.SIGSTOP)
    time.sleep(1.5 * GONE_SECONDS)
    hosts.kill("127.0.0.2", signal.SIGCONT)
    (tmp_path / "done").touch()
    assert [result.status for result in hosts.finish().values()] == [0, 0]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("name", ["127.0.0.1", "127.0.0.2"])
def test_a_stop_of_any_host_stops_all(tmp_path: Path, name: str, number: int, status: int) -> None:
    hosts = Hosts(tmp_path, 2, "import signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\n" + SLEEP, MIRRORED)
    hosts.start()
    hosts.wait_for("up")
    hosts.kill(name, number)
    results = hosts.finish()
    assert [result.status for result in results.values()] == [status, status]
    (cause,) = causes(results)
    assert cause.startswith(f"stopped: {signal.Signals(number).name} asked the job to end")
    assert cause.endswith(f"on host {name}")


def test_a_stop_leaves_every_host_the_time_to_save(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(1 if os.environ['SM_CURRENT_HOST'] == '127.0.0.2' else 0)\n"
        "    open(os.environ['SM_MODEL_DIR'] + '/checkpoint', 'w').close()\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\n"
    ) + SLEEP
    hosts = Hosts(tmp_path, 2, code, MIRRORED)
    hosts.start()
    hosts.wait_for("up")
    hosts.kill("127.0.0.1", signal.SIGTERM)
    results = hosts.finish()
    assert [result.status for result in results.values()] == [0, 0]
    assert all((result.root / "model" / "checkpoint").exists() for result in results.values())


def test_a_failure_before_the_script_ends_the_others_that_wait_to_begin(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, 2, SLEEP, MIRRORED)
    hosts.jobs["127.0.0.2"].code("requirements.txt", "no-such-package-anywhere==1\n")
    hosts.jobs["127.0.0.2"].environ |= {"PIP_NO_INDEX": "1", "UV_NO_INDEX": "1", "UV_OFFLINE": "1"}
    results = hosts.run()
    assert [result.status for result in results.values()] == [69, 69]
    (cause,) = causes(results)
    assert "no-such-package-anywhere" in cause
    assert b"up" not in results["127.0.0.1"].stdout


def test_hosts_begin_together_however_late_one_comes(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, 3, "print('up')\n", MIRRORED)
    hosts.start("127.0.0.2", "127.0.0.3")
    wait_until(lambda: b"decide" in (tmp_path / "127.0.0.3.err").read_bytes(), "the others are ready")
    assert hosts.out("127.0.0.2") == hosts.out("127.0.0.3") == ""
    hosts.start("127.0.0.1")
    assert causes(hosts.finish()) == {""}


@pytest.mark.parametrize("missing", ["127.0.0.1", "127.0.0.2"])
def test_a_host_that_never_comes_is_named(tmp_path: Path, missing: str) -> None:
    hosts = Hosts(tmp_path, 3, SLEEP, MIRRORED)
    hosts.set(TF_TOOLKIT_CLUSTER_WAIT="1")
    hosts.start(*(name for name in hosts.names if name != missing))
    results = hosts.finish()
    assert [result.status for result in results.values()] == [68, 68]
    assert all(cause.startswith(f"cluster: host {missing} never came within") for cause in causes(results))
    assert not any(b"up" in result.stdout for result in results.values())


def test_a_host_with_another_key_is_not_of_the_job(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, 2, SLEEP, MIRRORED)
    hosts.set(TF_TOOLKIT_CLUSTER_WAIT="2")
    hosts.jobs["127.0.0.2"].environ["TF_TOOLKIT_CLUSTER_KEY"] = "another"
    results = hosts.run()
    assert [result.status for result in results.values()] == [68, 68]
    assert all("TF_TOOLKIT_CLUSTER_KEY" in cause for cause in causes(results))


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, 2, SLEEP, MIRRORED)
    with socket.create_server(("127.0.0.1", hosts.port + 3)):
        hosts.start("127.0.0.1")
        result = hosts.finish()["127.0.0.1"]
    assert result.status == 68
    assert f"cannot listen on port {hosts.port + 3}" in result.failure


@pytest.mark.parametrize("setting", ["TF_TOOLKIT_CLUSTER_WAIT", "TF_TOOLKIT_LOCAL_PORTS"])
def test_a_setting_that_makes_no_sense_is_refused(tmp_path: Path, setting: str) -> None:
    hosts = Hosts(tmp_path, 2, SLEEP, MIRRORED)
    hosts.set(**{setting: "soon"})
    hosts.start("127.0.0.1")
    result = hosts.finish()["127.0.0.1"]
    assert result.status == 78
    assert f"{setting} is 'soon'" in result.failure


def test_strangers_can_neither_stop_nor_slow_a_job(tmp_path: Path) -> None:
    """Garbage, silence, half a frame, a frame without end, and a flood of connections, while the hosts gather."""
    hosts = Hosts(tmp_path, 2, "print('up')\n", MIRRORED)
    hosts.start("127.0.0.1")
    address = ("127.0.0.1", hosts.port + 3)
    held = [wait_until(lambda: try_connect(address), "the first host listens")]
    over = threading.Event()

    def flood() -> None:
        for number in range(2000):
            if over.is_set():
                return
            stranger = try_connect(address)
            if stranger is None:
                return
            garbage = (os.urandom(300), struct.pack(">I", 1 << 31), b"\0\0\0\5{nope", frames.encode(b'{"type":"join"}'))
            try:
                stranger.sendall(garbage[number % 4])
            except OSError:
                continue
            if number % 10:
                stranger.close()
            else:
                held.append(stranger)

    flooding = threading.Thread(target=flood)
    flooding.start()
    hosts.start("127.0.0.2")
    results = hosts.finish()
    over.set()
    flooding.join(DEADLINE)
    for stranger in held:
        stranger.close()
    assert causes(results) == {""}


def try_connect(address: tuple[str, int]) -> socket.socket | None:
    try:
        return socket.create_connection(address, timeout=5)
    except OSError:
        return None


def test_without_a_distribution_a_host_that_never_came_is_not_waited_for_long() -> None:
    leader = Leader(["a", "b"], False, 900.0, (110.0, 10.0), 0.0)
    leader.joined("a", 0.0)
    assert leader.said("a", {"type": "quiet", "ending": False}, 1.0) == []
    assert leader.tick(LATE_SECONDS) == []
    assert leader.tick(2.0 + LATE_SECONDS) == [Reply("a", {"type": "over"})]
    verdict = leader.said("a", {"type": "ended", "status": 0, "failure": None, "age": 0.0, "consequence": False}, 40.0)
    assert verdict == [Reply("a", {"type": "verdict", "status": 0, "failure": None})]


@pytest.mark.parametrize("missing", ["127.0.0.1", "127.0.0.2"])
def test_without_a_distribution_the_result_of_the_host_that_came_stands(tmp_path: Path, missing: str) -> None:
    hosts = Hosts(tmp_path, 2, "print('trained')\n")
    (name,) = set(hosts.names) - {missing}
    hosts.start(name)
    result = hosts.finish(10 * LATE_SECONDS)[name]
    assert (result.status, result.stdout) == (0, b"trained\n")
    assert result.succeeded


def test_a_quiet_that_crossed_the_stop_is_said_again() -> None:
    """Otherwise a host whose ranks still save their work would have Open MPI taken away below them."""
    leader = Leader(["a", "b"], True, 900.0, (110.0, 10.0), 0.0)
    for host in "ab":
        leader.joined(host, 0.0)
    leader.said("b", {"type": "quiet", "ending": False}, 1.0)
    stop = leader.said("a", {"type": "ending", "signal": 15}, 2.0)
    assert stop == [Reply(host, {"type": "stop", "signal": 15}) for host in "ab"]
    leader.said("a", {"type": "quiet", "ending": True}, 3.0)
    assert leader.said("b", {"type": "quiet", "ending": False}, 3.0) == []
    over = leader.said("b", {"type": "quiet", "ending": True}, 4.0)
    assert over == [Reply(host, {"type": "over"}) for host in "ab"]


def test_a_host_that_never_ends_does_not_hold_the_others_for_ever() -> None:
    leader = Leader(["a", "b"], True, 900.0, (110.0, 10.0), 0.0)
    for host in "ab":
        leader.joined(host, 0.0)
    failed = {"type": "ended", "status": 3, "failure": "x", "age": 0.0, "consequence": False}
    leader.said("a", failed, 1.0)
    assert leader.tick(20.0) == []
    replies = leader.tick(27.0)
    assert replies[-1] == Reply("b", {"type": "verdict", "status": 3, "failure": "x"})


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 50), max_size=60))
def test_frames_come_whole_however_they_are_cut(contents: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frames.encode, contents))
    found, rest = [], b""
    for size in [*cuts, len(stream)]:
        piece, stream = stream[:size], stream[size:]
        more, rest = frames.cut(rest + piece)
        found += more
    assert (found, rest) == (contents, b"")


def pair(first_key: bytes, key: bytes) -> tuple[Connection, Connection]:
    ours, theirs = socket.socketpair()
    return Connection(ours, first_key), Connection(theirs, key)


def greet(first: Connection, member: Connection, host: str = "b") -> None:
    first.challenge()
    first.flush()
    joining = threading.Thread(target=lambda: member.join(host, "a", DEADLINE))
    joining.start()
    wait_until(lambda: first.greeted(("a", "b")), "the host has proven itself")
    first.flush()
    joining.join(DEADLINE)


def test_two_launchers_with_one_key_talk() -> None:
    first, member = pair(b"key", b"key")
    greet(first, member)
    member.send({"type": "ready"})
    member.flush()
    assert wait_until(first.receive, "the message has come") == [{"type": "ready"}]
    assert (first.host, member.host) == ("b", "a")


def test_a_launcher_without_the_key_is_dropped() -> None:
    first, member = pair(b"key", b"other")

    def join() -> None:
        with pytest.raises(Dropped):
            member.join("b", "a", DEADLINE)

    joining = threading.Thread(target=join)
    first.challenge()
    first.flush()
    joining.start()
    with pytest.raises(Dropped, match="key"):
        wait_until(lambda: first.greeted(("a", "b")), "never")
    first.close()
    joining.join(DEADLINE)


def test_a_message_that_was_changed_on_its_way_is_dropped() -> None:
    first, member = pair(b"key", b"key")
    greet(first, member)
    member.send({"type": "ready"})
    member._to_send = member._to_send.replace(b"ready", b"quiet")
    member.flush()
    with pytest.raises(Dropped, match="sign"):
        wait_until(first.receive, "never")
