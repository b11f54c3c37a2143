"""The command line of mpirun, as it follows from the job's description."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_mpi import ENVIRON, Host, host, script
from tf_toolkit import contract, network
from tf_toolkit.config import JobConfig
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.hardware import Hardware
from tf_toolkit.mpi_options import custom_options, flag, merged, parameter, variable
from tf_toolkit.mpirun import Job, command_line
from tf_toolkit.process import Command
from tf_toolkit.strategies import mpi

HOSTS = ("algo-1", "algo-2")
PER_HOST = "sagemaker_mpi_num_of_processes_per_host"
TOTAL = "sagemaker_mpi_num_processes"
GROUPS = "sagemaker_distribution_instance_groups"
OPTIONS = "sagemaker_mpi_custom_mpi_options"
PYTHON = (sys.executable, "-E", "-m")
JOB = Job(
    hosts=HOSTS,
    slots=8,
    ranks=16,
    interface="eth0",
    instance_types=("ml.p4d.24xlarge",),
    variables={"PATH": "/bin", "SECRET": "hunter2"},
    version=(4, 1, 4),
)
COMMAND = Command((sys.executable, "--", "train.py"), "/opt/ml/code", "train.py")


def custom(text: str, job: Job = JOB) -> tuple[str, ...]:
    """The command line's words with these options of the user's."""
    return command_line("mpirun", job, custom_options(text))


def holds(words: Sequence[str], *part: str) -> bool:
    return any(tuple(words[start : start + len(part)]) == part for start in range(len(words)))


def test_the_command_line_of_open_mpi_4() -> None:
    assert custom("") == (
        *("mpirun", "--host", "algo-1:8,algo-2:8", "-np", "16", "--allow-run-as-root"),
        *("--mca", "btl_tcp_if_include", "eth0", "--bind-to", "none", "--map-by", "slot"),
        *("--mca", "pml", "ob1", "--mca", "btl", "^openib,ofi", "--display-map", "--tag-output"),
        *("--mca", "oob_tcp_if_include", "eth0", "--mca", "plm_rsh_no_tree_spawn", "1"),
        *("--mca", "plm_rsh_agent", f"{sys.executable} -E -m tf_toolkit.rsh"),
        *("--mca", "orte_leave_session_attached", "1", "--mca", "orte_abort_on_non_zero_status", "1"),
        *("--mca", "odls_base_sigkill_timeout", "12", "--mca", "btl_vader_single_copy_mechanism", "none"),
        *("-x", "NCCL_MIN_NRINGS=4", "-x", "NCCL_SOCKET_IFNAME=eth0", "-x", "NCCL_DEBUG=INFO"),
        *("-x", "FI_PROVIDER=efa", "-x", "NCCL_PROTO=simple", "-x", "FI_EFA_USE_DEVICE_RDMA=1", "-x", "PATH"),
        *(*PYTHON, "tf_toolkit.rank"),
    )


def test_the_command_line_of_open_mpi_5() -> None:
    """Its options and parameters as `mpirun --help` and `prte_info --all` of 5.0.11 name them."""
    assert custom("", JOB._replace(version=(5, 0, 11), instance_types=("local",))) == (
        *("mpirun", "--host", "algo-1:8,algo-2:8", "-np", "16", "--allow-run-as-root"),
        *("--mca", "btl_tcp_if_include", "eth0", "--bind-to", "none", "--map-by", "slot"),
        *("--mca", "pml", "ob1", "--mca", "btl", "^openib,ofi", "--display", "map", "--output", "tag"),
        *("--prtemca", "prte_if_include", "eth0", "--prtemca", "plm_ssh_no_tree_spawn", "1"),
        *("--prtemca", "plm_ssh_agent", f"{sys.executable} -E -m tf_toolkit.rsh"),
        *("--leave-session-attached", "--mca", "smsc", "^cma"),
        *("-x", "NCCL_MIN_NRINGS=4", "-x", "NCCL_SOCKET_IFNAME=eth0", "-x", "NCCL_DEBUG=INFO", "-x", "PATH"),
        *(*PYTHON, "tf_toolkit.rank"),
    )


def test_what_a_host_was_given_itself_stands() -> None:
    words = custom("", JOB._replace(variables={"NCCL_DEBUG": "WARN", "LD_LIBRARY_PATH": "/lib", "FI_PROVIDER": "tcp"}))
    assert not [word for word in words if word.startswith(("NCCL_DEBUG", "FI_PROVIDER", "PATH"))]
    assert holds(words, "-x", "LD_LIBRARY_PATH")


@pytest.mark.parametrize("version", [(4, 1), (5, 0)])
def test_hosts_that_differ_in_their_domains(version: tuple[int, ...]) -> None:
    job = JOB._replace(version=version, hosts=("a.one.example", "a.two.example"))
    assert [word for word in custom("", job) if word.endswith("keep_fqdn_hostnames")]
    addresses = JOB._replace(version=version, hosts=("10.0.0.1", "10.0.0.2"))
    assert not [word for word in custom("", addresses) if word.endswith("keep_fqdn_hostnames")]


@pytest.mark.parametrize(
    ("options", "there", "gone"),
    [
        ("-mca pml ucx", ("-mca", "pml", "ucx"), ("ob1",)),
        ("--mca pml cm -mca pml ucx", ("-mca", "pml", "ucx"), ("ob1", "cm")),
        ("-mca btl_base_verbose 30", ("-mca", "btl_base_verbose", "30"), ()),
        ("-map-by node", ("-map-by", "node"), ("slot",)),
        ("--map-by ppr:2:socket:PE=4 -x A=1", ("--map-by", "ppr:2:socket:PE=4"), ("slot",)),
        ("--report-bindings --bind-to core", ("--bind-to", "core", "--map-by"), ()),
        ("-bind-to-core", ("-bind-to-core",), ("--bind-to",)),
        ("-x NCCL_MIN_NRINGS=8", ("-x", "NCCL_MIN_NRINGS=8"), ("NCCL_MIN_NRINGS=4",)),
        ("-x NCCL_DEBUG", ("-x", "NCCL_DEBUG"), ("NCCL_DEBUG=INFO",)),
        ("--NCCL_DEBUG WARN", ("-x", "NCCL_DEBUG=WARN"), ("NCCL_DEBUG=INFO", "--NCCL_DEBUG")),
        ("--NCCL_DEBUG=TRACE", ("-x", "NCCL_DEBUG=TRACE"), ("NCCL_DEBUG=INFO",)),
        ("-n 3", ("-n", "3"), ("-np",)),
        ("""-x "A=b c" -x 'J={"k": 1}'""", ("-x", "A=b c", "-x", 'J={"k": 1}'), ()),
        ("-x A='$(id)'", ("-x", "A=$(id)"), ()),
        ("--verbose --never-heard-of x y", ("--verbose", "--never-heard-of", "x", "y"), ()),
        ("--NCCL INFO", ("--NCCL", "INFO"), ()),
        ("--output-filename=/tmp/x", ("--output-filename=/tmp/x",), ()),
        ("-mca", ("-mca",), ()),
    ],
)
def test_options_of_the_user_s_override_by_name(options: str, there: tuple[str, ...], gone: tuple[str, ...]) -> None:
    words = custom(options)
    assert holds(words, *there)
    end = words.index(PYTHON[0])
    assert not [word for word in words[:end] if word in gone]
    assert words[end:] == (*PYTHON, "tf_toolkit.rank")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("-x 'A=1", """"-x 'A=1" (no closing quotation)"""),
        ("train.py", "'train.py' where an option should begin"),
        ("-- train.py", "'--' where"),
        ("--verbose : -np 2", "':', which begins a second program"),
        ("--help", "'--help', with which nothing would be trained"),
        ("-mca a b --version", "'--version', with which"),
        (30, "a number (30)"),
        (["-x"], "a list"),
    ],
)
def test_options_that_are_refused(value: object, found: str) -> None:
    with pytest.raises(JobDescriptionError) as error:
        custom_options(value)
    assert f"hyperparameters.json: key {OPTIONS!r}: found {found}" in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text())
def test_any_text_is_options_or_refused(text: str) -> None:
    try:
        options = custom_options(text)
    except JobDescriptionError:
        return
    assert len(merged(options)) <= len(options)


def test_the_last_of_a_name_counts_where_the_first_stood() -> None:
    ours = [parameter("-mca", "a", "1"), variable("B", "2"), flag("--d")]
    theirs = [flag("-c", "9"), parameter("--mca", "a", "5"), variable("D")]
    words = [option.words for option in merged(ours, theirs)]
    # "-c" is a name of "-np", not of ours.
    assert words == [("--mca", "a", "5"), ("-x", "B=2"), ("--d",), ("-c", "9"), ("-x", "D")]


# From the job's description.


def spec(member: Host) -> tuple[str, ...]:
    (made,) = mpi.processes(member.config, COMMAND, member.env)
    assert made.ranks
    return made.argv


@pytest.mark.parametrize(
    ("parameters", "hardware", "slots", "ranks"),
    [
        ({}, (0, 0), 1, 2),
        ({}, (4, 0), 4, 8),
        ({}, (0, 32), 32, 64),
        ({}, (4, 32), 4, 8),
        ({PER_HOST: 2}, (4, 0), 2, 4),
        ({PER_HOST: "2"}, (0, 0), 2, 4),
        ({PER_HOST: '"2"'}, (0, 0), 2, 4),
        ({PER_HOST: 2.0}, (0, 0), 2, 4),
        ({PER_HOST: 0}, (4, 0), 4, 8),
        ({PER_HOST: "null", TOTAL: ""}, (0, 0), 1, 2),
        ({PER_HOST: 4, TOTAL: 5}, (0, 0), 4, 5),
        ({PER_HOST: 4, TOTAL: '" 7 "'}, (0, 0), 4, 7),
        ({TOTAL: 3, OPTIONS: "--oversubscribe"}, (0, 0), 1, 3),
        ({TOTAL: 3, OPTIONS: "--map-by node:OVERSUBSCRIBE"}, (0, 0), 1, 3),
    ],
)
def test_counts(
    tmp_path: Path, parameters: dict[str, object], hardware: tuple[int, int], slots: int, ranks: int
) -> None:
    member = host(tmp_path, hosts=HOSTS, hardware=Hardware(4, *hardware, ()), hyperparameters=parameters)
    words = spec(member)
    assert holds(words, "--host", f"algo-1:{slots},algo-2:{slots}", "-np", str(ranks))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({PER_HOST: -1}, f"key '{PER_HOST}': found a number (-1), expected a whole number"),
        ({PER_HOST: 1.5}, f"key '{PER_HOST}': found a number (1.5), expected a whole number"),
        ({PER_HOST: "true"}, f"key '{PER_HOST}': found a boolean (true), expected a whole number"),
        ({PER_HOST: "two"}, f"key '{PER_HOST}': found a string (\"two\"), expected a whole number"),
        ({TOTAL: [2]}, f"key '{TOTAL}': found a list, expected a whole number"),
        ({PER_HOST: 2, TOTAL: 5}, f"key '{TOTAL}': found 5, expected at most 4, as there are 2 for each of 2 hosts"),
    ],
)
def test_counts_that_are_refused(tmp_path: Path, parameters: dict[str, object], message: str) -> None:
    member = host(tmp_path, hosts=HOSTS, hyperparameters=parameters)
    with pytest.raises(JobDescriptionError, match=re.escape(f"hyperparameters.json: {message}")):
        mpi.processes(member.config, COMMAND, member.env)


def test_one_host_needs_no_name_that_resolves(tmp_path: Path) -> None:
    words = spec(host(tmp_path, "algo-1"))
    assert holds(words, "--host", "localhost:1")
    assert "plm_rsh_agent" not in words


def test_no_value_of_a_variable_or_an_argument_is_on_the_command_line(tmp_path: Path) -> None:
    environ = {**ENVIRON, "MY_TOKEN": "hunter2", "AWS_SECRET_ACCESS_KEY": "hunter2"}
    member = host(
        tmp_path, hosts=HOSTS, environ=environ, arguments=["--password", "hunter2"], hyperparameters={"key": "hunter2"}
    )
    (made,) = mpi.processes(member.config, COMMAND, member.env)
    assert "hunter2" not in " ".join(made.argv)
    assert made.env["MY_TOKEN"] == made.env["SM_HP_KEY"] == "hunter2"
    assert made.env["PYTHONPATH"].split(os.pathsep)[0] == COMMAND.directory
    assert made.env["OMP_NUM_THREADS"] == "4"


def test_the_other_hosts_wait_to_be_asked(tmp_path: Path) -> None:
    member = host(tmp_path, "algo-2", HOSTS, hyperparameters={PER_HOST: 4})
    assert mpi.applies(member.config)
    assert mpi.processes(member.config, COMMAND, member.env) == ()
    daemon = mpi.daemon(member.config, COMMAND, member.env, ["-mca", "ess", "env"])
    assert Path(daemon.argv[0]).name in ("orted", "prted")
    assert daemon.argv[1:] == ("-mca", "ess", "env")
    assert daemon.ranks
    assert daemon.env["SM_CURRENT_HOST"] == "algo-2"
    assert daemon.env["OMP_NUM_THREADS"] == "1"
    assert "PMIX_HOSTNAME" not in daemon.env


def groups(*described: tuple[str, str, list[str]]) -> dict[str, object]:
    return {
        "instance_groups": [
            {"instance_group_name": name, "instance_type": kind, "hosts": hosts} for name, kind, hosts in described
        ],
        "current_group_name": described[0][0],
        "current_instance_type": described[0][1],
    }


@pytest.mark.parametrize(
    ("named", "expected", "efa", "rdma"),
    [
        ('["gpu"]', "algo-1:1,algo-2:1", True, True),
        ('["gpu", "small"]', "algo-1:1,algo-2:1,algo-3:1", True, False),
        ('["gpu", "small", "data"]', "algo-1:1,algo-2:1,algo-3:1,algo-4:1", False, False),
    ],
)
def test_heterogeneous_groups(tmp_path: Path, named: str, expected: str, efa: bool, rdma: bool) -> None:
    hosts = ["algo-1", "algo-2", "algo-3", "algo-4"]
    resource = groups(
        ("gpu", "ml.p5en.48xlarge", hosts[:2]),
        ("small", "ml.g6e.12xlarge", hosts[2:3]),
        ("data", "ml.c5.xlarge", hosts[3:]),
    )
    member = host(tmp_path, "algo-1", hosts, resource=resource, hyperparameters={GROUPS: named})
    words = spec(member)
    assert holds(words, "--host", expected)
    assert holds(words, "-x", "FI_PROVIDER=efa") is efa
    assert holds(words, "-x", "FI_EFA_USE_DEVICE_RDMA=1") is rdma
    data = host(
        tmp_path,
        "algo-4",
        hosts,
        resource={**resource, "current_group_name": "data"},
        hyperparameters={GROUPS: named},
    )
    assert mpi.applies(data.config) is ("data" in named)


@pytest.mark.parametrize(
    ("instance_type", "efa", "rdma"),
    [
        ("ml.p3dn.24xlarge", True, False),
        ("ml.p4d.24xlarge", True, True),
        ("ml.p5en.48xlarge", True, True),
        ("ml.p6-b200.48xlarge", True, True),
        ("ml.g5.48xlarge", True, False),
        ("ml.g6.48xlarge", True, False),
        ("ml.g6e.48xlarge", True, False),
        ("ml.g6.xlarge", False, False),
        ("ml.trn1.32xlarge", True, True),
        ("ml.trn2.48xlarge", True, True),
        ("ml.c5.xlarge", False, False),
        ("local", False, False),
    ],
)
def test_instance_types_with_an_elastic_fabric_adapter(instance_type: str, efa: bool, rdma: bool) -> None:
    words = custom("", JOB._replace(instance_types=[instance_type]))
    assert holds(words, "-x", "FI_PROVIDER=efa") is efa
    assert holds(words, "-x", "NCCL_PROTO=simple") is efa
    assert holds(words, "-x", "FI_EFA_USE_DEVICE_RDMA=1") is rdma


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ((sys.executable, "--", "train.py"), (sys.executable, "-m", "mpi4py", "train.py")),
        ((sys.executable, "-m", "pack.train"), (sys.executable, "-m", "mpi4py", "-m", "pack.train")),
        ((sys.executable, "-c", "x()", "m", "f"), (sys.executable, "-m", "mpi4py", "-c", "x()", "m", "f")),
        (("/bin/sh", "./train.sh"), ("/bin/sh", "./train.sh")),
        (("./train",), ("./train",)),
    ],
)
def test_the_command_of_a_rank(tmp_path: Path, argv: tuple[str, ...], expected: tuple[str, ...]) -> None:
    member = host(tmp_path, arguments=["a b", ":"], hyperparameters={"learning-rate": 0.1})
    command = Command(argv, "/opt/ml/code", "train.py")
    words = (*expected, "--learning-rate", "0.1", "a b", ":")
    assert mpi.rank_command(member.config, command, member.env) == (words, "/opt/ml/code")


def test_hosts_on_one_machine_have_names_and_places_of_their_own(tmp_path: Path) -> None:
    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    member = host(tmp_path, hosts[0], hosts)
    words = spec(member)
    assert holds(words, "--host", "127.0.0.1:1,tf-toolkit-host-2:1,tf-toolkit-host-3:1")
    assert holds(words, "--mca", "oob_tcp_if_include", "lo")
    assert mpi.host_of_node(member.config, "tf-toolkit-host-3") == "127.0.0.3"
    third = host(tmp_path, hosts[2], hosts, environ={**ENVIRON, contract.DOOR: "/run/three/door"})
    daemon = mpi.daemon(third.config, COMMAND, third.env, [])
    assert daemon.env["PMIX_HOSTNAME"] == "tf-toolkit-host-3"
    assert daemon.env["OMPI_MCA_btl_vader_backing_directory"] == "/run/three"
    with pytest.raises(JobDescriptionError, match=r"Open MPI 5\.0\.3 cannot tell hosts apart that share a machine"):
        command_line("mpirun", JOB._replace(hosts=hosts, version=(5, 0, 3)), ())


def test_a_node_that_is_no_host(tmp_path: Path) -> None:
    config: JobConfig = host(tmp_path, hosts=HOSTS).config
    assert mpi.host_of_node(config, "algo-2") == "algo-2"
    with pytest.raises(JobDescriptionError, match="mpirun asks for the host 'elsewhere'"):
        mpi.host_of_node(config, "elsewhere")


def test_an_interface_that_is_not_there_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The SDK's newer local mode names "ethwe"."""
    name = socket.gethostname()
    member = host(tmp_path, name, [name, "algo-2"], resource={"network_interface_name": "ethwe"})
    words = spec(member)
    found = words[words.index("btl_tcp_if_include") + 1]
    assert Path("/sys/class/net", found).exists()
    (said,) = [record.getMessage() for record in caplog.records if record.name == "tf_toolkit"]
    assert "\n" not in said
    assert f"'ethwe', which this host has not; using '{found}'" in said


def test_interfaces() -> None:
    assert network.interface("lo", "algo-1") == "lo"
    assert network.interface("eth0", "127.0.0.2") == "lo"
    assert Path("/sys/class/net", network.interface("ethwe", "no-such-host.invalid")).exists()
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family == socket.AF_INET and name != "lo":
                assert network.interface("ethwe", entry.address) == name
                assert network.interface("ethwe", "no-such-host.invalid", [entry.address]) == name


def fake_mpirun(directory: Path, said: str) -> dict[str, str]:
    path = directory / "mpirun"
    path.write_text(f"#!/bin/sh\necho '{said}'\n")
    path.chmod(0o755)
    return {**ENVIRON, "PATH": f"{directory}:/usr/bin:/bin"}


def test_the_version_decides_the_words(tmp_path: Path) -> None:
    five = host(tmp_path, hosts=HOSTS, environ=fake_mpirun(tmp_path, "mpirun (Open MPI) 5.0.3rc1"))
    words = spec(five)
    assert words[0] == str(tmp_path / "mpirun")
    assert holds(words, "--output", "tag")


def test_another_mpi_is_refused(tmp_path: Path) -> None:
    other = host(tmp_path, hosts=HOSTS, environ=fake_mpirun(tmp_path, "HYDRA build details:"))
    with pytest.raises(JobDescriptionError, match="is not Open MPI's: 'HYDRA build details:'"):
        spec(other)


def test_no_mpirun(tmp_path: Path) -> None:
    without = host(tmp_path, hosts=HOSTS, environ={**ENVIRON, "PATH": str(tmp_path)})
    with pytest.raises(JobDescriptionError) as error:
        spec(without)
    assert str(error.value) == "mpirun is not in this image; install Open MPI (Debian: openmpi-bin)"


def test_real_mpirun_takes_every_option(tmp_path: Path) -> None:
    """One that it does not know would end it before any rank."""
    import door as doors

    command = script(tmp_path, "import os; print(os.environ['NCCL_DEBUG'], os.environ['A'])")
    options = "--NCCL_DEBUG WARN -x 'A=b c' -mca btl_base_verbose 0 --map-by node"
    member = host(tmp_path, hyperparameters={OPTIONS: options})
    with doors.opened(*mpi.rank_command(member.config, command, member.env)) as door:
        variables = {**member.env.variables, contract.DOOR: str(door.path)}
        (made,) = mpi.processes(member.config, command, member.env._replace(variables=variables))
        status, stdout, stderr = doors.finished(doors.started(made))
    assert status == 0, stderr
    assert b"WARN b c" in stdout
