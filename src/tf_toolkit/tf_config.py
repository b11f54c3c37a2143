"""TF_CONFIG: what TensorFlow's distributed runtime is told of the job's hosts. Pure.

Format: https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

from tf_toolkit import contract
from tf_toolkit.config import JobConfig
from tf_toolkit.errors import JobDescriptionError

NAME = "TF_CONFIG"
_EXAMPLE = '{"cluster": {"ps": ["algo-1:2223"]}, "task": {"index": 0, "type": "ps"}}'


class Task(NamedTuple):
    """One server of a cluster: which it is, and where all of them are."""

    cluster: Mapping[str, Sequence[str]]
    job: str
    number: int

    @property
    def address(self) -> str:
        return self.cluster[self.job][self.number]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


def write(cluster: Mapping[str, Sequence[str]], job: str, number: int) -> str:
    """The variable's text, with the keys in the order in which every toolkit of the contract writes them."""
    return json.dumps({"cluster": cluster, "environment": "cloud", "task": {"index": number, "type": job}})


def addresses(config: JobConfig, variables: Mapping[str, str], port: int) -> list[str]:
    """Where the hosts that take part listen for this port of the contract, in the order of their tasks."""
    return [f"{host}:{contract.port(variables, config.hosts.index(host), port)}" for host in config.distribution_hosts]


def multi_worker(config: JobConfig, variables: Mapping[str, str]) -> dict[str, str]:
    """The variable for MultiWorkerMirroredStrategy, where the job asks for that; Open MPI's ranks find it too."""
    if not config.flag(contract.MULTI_WORKER_MIRRORED_ENABLED):
        return {}
    index = config.distribution_hosts.index(config.current_host)
    return {NAME: write({"worker": addresses(config, variables, contract.MULTI_WORKER_PORT)}, "worker", index)}


def read(text: str | None) -> Task:
    """The task that a process is told to be.

    Raises JobDescriptionError for a text that names none.
    """
    if not text:
        _fail("is not set")
    try:
        content = json.loads(text)
    except ValueError as error:
        _fail(f"is not JSON: {error}")
    try:
        cluster = {job: [str(address) for address in tasks] for job, tasks in content["cluster"].items()}
        task = Task(cluster, str(content["task"]["type"]), int(content["task"]["index"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        _fail(f"names no cluster with a task ({type(error).__name__}: {error})")
    if not 0 <= task.number < len(cluster.get(task.job, ())):
        _fail(f"names a task that its cluster has not, {task.job} {task.number}")
    host, _, port = task.address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        _fail(f"has {task.address!r} for its own address")
    return task


def _fail(what: str) -> NoReturn:
    raise JobDescriptionError(f"{NAME} {what}; expected such as {_EXAMPLE}")
