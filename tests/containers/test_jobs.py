"""Jobs on two hosts of an image: MPI and Horovod without ssh, and hosts that are not as one would expect."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_hosts import MIRRORED, MPI, TENSORFLOWS, Hosts, image, seen

pytestmark = pytest.mark.containers

TWO_EACH = {**MPI, "sagemaker_mpi_num_of_processes_per_host": 2}
HOSTILE = "a b'\"\n$(touch /opt/ml/pwned) `id`; ünï → \\ *"
SUCCESS = {"algo-1": 0, "algo-2": 0}


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path, image()) as hosts:
        yield hosts


def ranks(hosts: Hosts) -> list[tuple[str, dict[str, Any]]]:
    """What each of four ranks saw, and on which host it ran: two on each."""
    names = ("algo-1", "algo-1", "algo-2", "algo-2")
    return [(name, seen(hosts[name], f"rank-{number}.json")) for number, name in enumerate(names)]


def test_ranks_sizes_and_sums_are_right_and_each_rank_is_on_its_own_host(hosts: Hosts) -> None:
    hosts.describe("containers/sums.py", {**TWO_EACH, "text": HOSTILE})
    hosts.start(environment={"HOSTILE": HOSTILE})

    assert hosts.ends(60) == SUCCESS
    for number, (name, rank) in enumerate(ranks(hosts)):
        assert (rank["rank"], rank["size"]) == (number, 4)
        assert (rank["local rank"], rank["local size"]) == (number % 2, 2)
        assert rank["sum"] == 1 + 2 + 3 + 4
        assert rank["hostname"] == rank["environ"]["SM_CURRENT_HOST"] == name
        assert rank["argv"] == ["--text", HOSTILE]
        assert rank["environ"]["SM_HP_TEXT"] == rank["environ"]["HOSTILE"] == HOSTILE
    for name in SUCCESS:
        assert hosts[name].succeeded
        assert not (hosts[name].tree.root / "pwned").exists()


def test_each_host_has_variables_of_its_own(hosts: Hosts) -> None:
    hosts.describe("containers/sums.py", TWO_EACH)
    for name in SUCCESS:
        hosts.start(name, environment={"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": f"/of/{name}"})

    assert hosts.ends(60) == SUCCESS
    for name, rank in ranks(hosts):
        assert rank["environ"]["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] == f"/of/{name}"


def test_whole_lines_come_with_the_rank_and_its_host(hosts: Hosts) -> None:
    hosts.describe("containers/sums.py", TWO_EACH)
    hosts.start()

    assert hosts.ends(60) == SUCCESS
    output = hosts["algo-1"].output(stderr=False)
    for number in range(4):
        host = "algo-1" if number < 2 else "algo-2"
        assert f"[1,mpirank:{number},{host}]<stdout>:rank {number} of 4 adds up to 10\n" in output


def test_a_user_who_is_not_root(hosts: Hosts) -> None:
    hosts.describe("containers/sums.py", TWO_EACH)
    hosts.start(user="1000")

    assert hosts.ends(60) == SUCCESS
    assert [rank["sum"] for _, rank in ranks(hosts)] == [10] * 4


@pytest.mark.parametrize("init", [True, False])
def test_ranks_that_end_at_once_end_cleanly_everywhere(hosts: Hosts, init: bool) -> None:
    hosts.describe("containers/sums.py", MPI)
    hosts.start(init=init)

    assert hosts.ends(60) == SUCCESS
    # None is left behind, nor leaves before the other's result is there.
    assert abs(hosts["algo-1"].finished - hosts["algo-2"].finished) < 5
    assert hosts["algo-1"].succeeded and hosts["algo-2"].succeeded


@pytest.mark.parametrize("late", ["algo-1", "algo-2"])
def test_a_host_that_starts_late_is_waited_for(hosts: Hosts, late: str) -> None:
    hosts.describe("containers/sums.py", MPI)
    early = "algo-1" if late == "algo-2" else "algo-2"
    hosts.start(early)
    # Time itself is what is tested here: no condition tells of it.
    time.sleep(20)
    assert hosts[early].running

    hosts.start(late)

    assert hosts.ends(60) == SUCCESS
    assert hosts[early].finished - hosts[late].started < 20


def test_an_interface_that_is_not_there_gives_one_warning(hosts: Hosts) -> None:
    hosts.describe("containers/sums.py", MPI, interface="ethwe")
    hosts.start()

    assert hosts.ends(60) == SUCCESS
    warnings = [line for line in hosts["algo-1"].output().splitlines() if " WARNING " in line and "ethwe" in line]
    assert len(warnings) == 1, warnings
    assert "eth0" in warnings[0]


def test_names_that_are_only_aliases_as_in_the_sdk_s_local_mode(hosts: Hosts) -> None:
    names = ("algo-1-xrj9u", "algo-2-k2p0d")
    hosts.describe("containers/sums.py", TWO_EACH, names)
    hosts.start(hostname=False, tty=True, stdin_open=True)

    assert hosts.ends(60) == dict.fromkeys(names, 0)
    for number in range(4):
        rank = seen(hosts[names[number // 2]], f"rank-{number}.json")
        assert (rank["rank"], rank["local rank"], rank["local size"], rank["sum"]) == (number, number % 2, 2, 10)


def test_multi_worker_mirrored_hosts_end_together(hosts: Hosts) -> None:
    hosts.describe("containers/short.sh", MIRRORED)
    hosts.start()

    assert hosts.ends(60) == SUCCESS
    for name in SUCCESS:
        assert f"trained on {name}" in hosts[name].output(stderr=False)


@pytest.mark.parametrize("tensorflow", TENSORFLOWS)
def test_horovod_adds_up_over_two_hosts(tmp_path: Path, tensorflow: str) -> None:
    with Hosts(tmp_path, image(tensorflow)) as hosts:
        hosts.describe("containers/horovod_sums.py", TWO_EACH)
        hosts.start()

        assert hosts.ends(300) == SUCCESS
        for number, (name, rank) in enumerate(ranks(hosts)):
            assert rank == {
                "rank": number,
                "size": 4,
                "local rank": number % 2,
                "local size": 2,
                "sums": [10.0],
                "host": name,
            }
