"""mpirun's command line, for Open MPI 4 and 5, and where it is.

Options: mpirun(1) of Open MPI 4.1, and of 5.0 (https://docs.open-mpi.org/en/v5.0.x/man-openmpi/man1/mpirun.1.html),
where the runtime is PRRTE, whose parameters have names of its own (prte_info(1)).
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tf_toolkit import efa, network
from tf_toolkit.contract import FAILURE_GRACE_SECONDS
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.mpi_options import Option, flag, merged, parameter, variable

# Where Python would look for modules first, so not the user's directory. The script gets that from rank.py.
CWD = "/"
# Ours run with the toolkit alone: not with the user's modules, which PYTHONPATH names and which may be called as ours.
_PYTHON = (sys.executable, "-E", "-m")
_RANK = (*_PYTHON, "tf_toolkit.rank")
_VERSION_SECONDS = 10.0
# Where it does not say: that of Debian 12.
_ASSUMED_VERSION = (4, 1)
_NO_MPIRUN = "mpirun is not in this image; install Open MPI (Debian: openmpi-bin)"


class Job(NamedTuple):
    """What the command line depends on."""

    hosts: Sequence[str]
    slots: int
    ranks: int
    interface: str
    instance_types: Sequence[str]
    variables: Mapping[str, str]
    version: tuple[int, ...]


def command_line(mpirun: str, job: Job, custom: Sequence[Option], run: Sequence[str] = _RANK) -> tuple[str, ...]:
    """The command: our options, the user's over them, and what is to run as each rank."""
    if job.version >= (5,) and len(job.hosts) > 1 and network.is_loopback(job.hosts[0]):
        raise JobDescriptionError(
            f"Open MPI {'.'.join(map(str, job.version))} cannot tell hosts apart that share a machine; Open MPI 4 can"
        )
    runtime = _open_mpi_4(job) if job.version < (5,) else _open_mpi_5(job)
    options = merged(_everywhere(job), runtime, (variable(*item) for item in _exported(job)), custom)
    return (mpirun, *(word for option in options for word in option.words), *run)


def _everywhere(job: Job) -> Iterator[Option]:
    """The options that all versions know by one name."""
    # One slot for each process that a host is to have.
    yield flag("--host", ",".join(f"{node_name(host, job.hosts)}:{job.slots}" for host in job.hosts))
    yield flag("-np", str(job.ranks))
    # Containers run as root, which it refuses otherwise; for others it changes nothing.
    yield flag("--allow-run-as-root")
    # Data goes over the job's network, not over Docker's bridge or the loopback interface.
    yield parameter("--mca", "btl_tcp_if_include", job.interface)
    # Not pinned to a core, as each process has threads of its own; and host by host, so that neighbouring ranks are on
    # one host. "Open MPI", Horovod's documentation, https://horovod.readthedocs.io/en/stable/mpi.html.
    yield flag("--bind-to", "none")
    yield flag("--map-by", "slot")
    # TCP and shared memory; no probing for InfiniBand, which warns where there is none (the same page), and none of
    # libfabric, which holds up the end of every rank by a second where several hosts take part.
    yield parameter("--mca", "pml", "ob1")
    yield parameter("--mca", "btl", "^openib,ofi")


def _open_mpi_4(job: Job) -> Iterator[Option]:
    # Which rank is where, once, in the log.
    yield flag("--display-map")
    # Whose output it is; lines.py relies on it.
    yield flag("--tag-output")
    # Control goes over the job's network too.
    yield parameter("--mca", "oob_tcp_if_include", job.interface)
    # The first host asks for every daemon itself: the others have nobody to ask.
    yield parameter("--mca", "plm_rsh_no_tree_spawn", "1")
    if len(job.hosts) > 1:
        # In place of ssh.
        yield parameter("--mca", "plm_rsh_agent", _agent())
    # The daemon stays a child of its host's launcher, which so sees its end.
    yield parameter("--mca", "orte_leave_session_attached", "1")
    # A rank that fails ends the job.
    yield parameter("--mca", "orte_abort_on_non_zero_status", "1")
    # A rank that aborts has mpirun end the others: not before their own launchers do, who give them this time.
    yield parameter("--mca", "odls_base_sigkill_timeout", str(int(FAILURE_GRACE_SECONDS) + 2))
    # Containers lack the right to read another process's memory; without this each try is logged.
    yield parameter("--mca", "btl_vader_single_copy_mechanism", "none")
    if any(_has_domain(host) for host in job.hosts):
        # Hosts may differ in their domains alone.
        yield parameter("--mca", "orte_keep_fqdn_hostnames", "1")


def _open_mpi_5(job: Job) -> Iterator[Option]:
    """The same in PRRTE's words. That a rank that fails ends the job is its default, under several names."""
    yield flag("--display", "map")
    yield flag("--output", "tag")
    if job.interface != network.LOOPBACK:
        # It refuses to use that one alone; left to itself it takes one that works.
        yield parameter("--prtemca", "prte_if_include", job.interface)
    yield parameter("--prtemca", "plm_ssh_no_tree_spawn", "1")
    if len(job.hosts) > 1:
        yield parameter("--prtemca", "plm_ssh_agent", _agent())
    yield flag("--leave-session-attached")
    yield parameter("--mca", "smsc", "^cma")
    if any(_has_domain(host) for host in job.hosts):
        yield parameter("--prtemca", "prte_keep_fqdn_hostnames", "1")


def _exported(job: Job) -> Iterator[tuple[str, str | None]]:
    """The variables that are the same for all ranks. What each host was given itself stands."""
    defaults = {
        # More rings than NCCL's own choice, for rings over several hosts.
        "NCCL_MIN_NRINGS": "4",
        # NCCL's sockets are on the job's network too.
        "NCCL_SOCKET_IFNAME": job.interface,
        # Which devices and networks it found, once at its start.
        "NCCL_DEBUG": "INFO",
        **efa.variables(job.instance_types),
    }
    for name, value in defaults.items():
        if name not in job.variables:
            yield name, value
    # The same programs and libraries on all hosts; by name, mpirun takes the values from its own environment.
    for name in ("LD_LIBRARY_PATH", "PATH"):
        if job.variables.get(name):
            yield name, None


def _agent() -> str:
    # mpirun splits it at blanks, and takes a colon for the end of one of several agents.
    if re.search(r"[\s:]", sys.executable):
        raise JobDescriptionError(f"mpirun cannot call {sys.executable!r}: a blank or ':' is in its name; move it")
    return " ".join((*_PYTHON, "tf_toolkit.rsh"))


def _has_domain(host: str) -> bool:
    return "." in host and not re.fullmatch(r"[\d.]+", host)


def node_name(host: str, hosts: Sequence[str]) -> str:
    """What mpirun is to call a host.

    It takes every loopback address for itself, so there only the first host may have one.
    """
    if len(hosts) == 1:
        # Also where the host's name cannot be resolved.
        return "localhost"
    if not network.is_loopback(host) or host == hosts[0]:
        return host
    return f"tf-toolkit-host-{hosts.index(host) + 1}"


def program(name: str, variables: Mapping[str, str]) -> str:
    """The program's path on PATH. Raises JobDescriptionError where there is none."""
    for directory in variables.get("PATH", os.defpath).split(os.pathsep):
        path = Path(directory) / name
        if os.access(path, os.X_OK) and path.is_file():
            return str(path)
    raise JobDescriptionError(_NO_MPIRUN if name == "mpirun" else f"{name}, which comes with mpirun, is not on PATH")


@functools.cache
def mpi_version(mpirun: str) -> tuple[int, ...]:
    """Open MPI's version: (4, 1, 4).

    Raises JobDescriptionError where it is another MPI's.
    """
    try:
        said = subprocess.run(
            [mpirun, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_VERSION_SECONDS,
            check=False,
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    found = re.search(r"Open ?MPI\)? v?(\d+(?:\.\d+)*)", said)
    if found is None and said.strip():
        raise JobDescriptionError(f"{mpirun} is not Open MPI's: {said.strip().splitlines()[0][:200]!r}; {_NO_MPIRUN}")
    return tuple(map(int, found[1].split("."))) if found else _ASSUMED_VERSION
