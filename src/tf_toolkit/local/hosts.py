"""The hosts of a job on this machine: their names and ports, and what has them work together."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from tf_toolkit import contract
from tf_toolkit.errors import ClusterError

MOST_HOSTS = 64
# A host alone needs no address.
ALONE = "algo-1"
_PORTS_PER_HOST = 4
_TRIES = 1000
_LOWEST_PORT, _HIGHEST_PORT = 10_000, 65_535
# Linux gives ports of this range to whatever connects somewhere: ip(7).
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")

_FLAGS = {
    "parameter_server": contract.PARAMETER_SERVER_ENABLED,
    "multi_worker_mirrored": contract.MULTI_WORKER_MIRRORED_ENABLED,
    "mpi": contract.MPI_ENABLED,
}
DISTRIBUTIONS = tuple(_FLAGS)


def names(hosts: int, distribution: str | None, in_containers: bool) -> tuple[str, ...]:
    """The hosts' names: addresses of the loopback interface, which all of 127.0.0.0/8 leads to.

    Containers have a network of their own, and names as on the platform.
    """
    if in_containers:
        return tuple(f"algo-{number}" for number in range(1, hosts + 1))
    if hosts == 1 and distribution is None:
        return (ALONE,)
    return tuple(f"127.0.0.{number}" for number in range(1, hosts + 1))


def hyperparameters(distribution: str | None, processes_per_host: int | None) -> dict[str, str]:
    """What the SageMaker Python SDK sends for ``distribution=``."""
    if distribution is None:
        return {}
    sent: dict[str, object] = {_FLAGS[distribution]: True}
    if distribution == "mpi":
        sent[contract.MPI_OPTIONS] = ""
    if processes_per_host is not None:
        sent[contract.MPI_PROCESSES_PER_HOST] = processes_per_host
    return {name: json.dumps(value) for name, value in sent.items()}


def variables(hosts: tuple[str, ...], environ: Mapping[str, str]) -> dict[str, str]:
    """What every host's `train` finds in its environment besides what the job itself says."""
    if hosts == (ALONE,):
        return {}
    return {
        contract.CLUSTER_KEY: key(environ),
        contract.LOCAL_PORTS: str(_free_ports(_PORTS_PER_HOST * len(hosts))),
    }


def key(environ: Mapping[str, str]) -> str:
    """What the hosts know one another by. Made from the job it could be guessed by whoever else is on this machine."""
    return environ.get(contract.CLUSTER_KEY) or secrets.token_hex(32)


def _free_ports(count: int) -> int:
    """The first of so many ports that follow one another and are all free; at random, for other runs look too."""
    starts = _starts(count)
    for _ in range(_TRIES):
        start = secrets.choice(starts)
        if all(_is_free(port) for port in range(start, start + count)):
            return start
    raise ClusterError(f"there are no {count} free ports side by side on this machine for the hosts of a job")


def _starts(count: int) -> Sequence[int]:
    everywhere = range(_LOWEST_PORT, _HIGHEST_PORT + 2 - count)
    with contextlib.suppress(OSError, ValueError):
        low, high = (int(word) for word in _EPHEMERAL.read_text().split())
        return [start for start in everywhere if start + count <= low or start > high] or everywhere
    return everywhere


def _is_free(port: int) -> bool:
    # TensorFlow's servers listen on every address.
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
