"""Parameter servers: one on each host that takes part, in one of two shapes.

estimator     ``tf.estimator.train_and_evaluate``, up to TensorFlow 2.15: every host runs the user's script, the first
              as the master, the others as workers.
coordinator   ``tf.distribute.ParameterServerStrategy``: only the first host runs the user's script, as the chief; the
              others' workers are servers, which do what it sends them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

from tf_toolkit import contract, mkl, tf_config
from tf_toolkit.config import JobConfig
from tf_toolkit.environment import Environment, command_variables
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.process import Command, ProcessSpec
from tf_toolkit.section import found_type

# What the first host's task is called.
_FIRST = {"estimator": "master", "coordinator": "chief"}
# https://github.com/tensorflow/tensorflow/releases/tag/v2.16.1: "The tf.estimator API is removed."
_FIRST_WITHOUT_ESTIMATOR = (2, 16)


def applies(config: JobConfig) -> bool:
    hosts = config.distribution_hosts
    return config.flag(contract.PARAMETER_SERVER_ENABLED) and len(hosts) > 1 and config.current_host in hosts


def processes(config: JobConfig, command: Command, env: Environment) -> tuple[ProcessSpec, ...]:
    """The user's script, or in the coordinator shape a worker in its place, and this host's parameter server.

    Raises JobDescriptionError for a shape that is none.
    """
    shape = _shape(config)
    index = config.distribution_hosts.index(config.current_host)
    cluster = _cluster(config, env, _FIRST[shape])
    task = tf_config.write(cluster, *((_FIRST[shape], 0) if index == 0 else ("worker", index - 1)))
    if index > 0 and shape == "coordinator":
        first = _server("worker", config, env, task, processes=1)
    else:
        first = _script(config, command, env, task)
    server = _server("parameter server", config, env, tf_config.write(cluster, "ps", index), processes=2)
    # Its work is to hold variables and to update them. With a GPU it would claim all memory of that for itself, and the
    # script on the same host would find none.
    return first, server._replace(env={**server.env, "CUDA_VISIBLE_DEVICES": "-1"})


def _script(config: JobConfig, command: Command, env: Environment, task: str) -> ProcessSpec:
    variables = {
        **env.variables,
        # All CPUs, as though it were alone: it waits while the parameter server works for it.
        **mkl.variables(config, env.hardware.cpus, 1, env.variables),
        **command_variables(command, env.variables),
        tf_config.NAME: task,
    }
    return ProcessSpec("script", (*command.argv, *env.arguments), variables, command.directory)


def _server(role: str, config: JobConfig, env: Environment, task: str, processes: int) -> ProcessSpec:
    """A worker computes as a script does; a parameter server, the second of two processes, is bound to no CPU."""
    variables = {
        **env.variables,
        **mkl.variables(config, env.hardware.cpus, processes, env.variables),
        tf_config.NAME: task,
    }
    return ProcessSpec(
        role=role,
        argv=(sys.executable, "-m", "tf_toolkit.tf_server"),
        env=variables,
        # Python looks for modules in the working directory first: not among the user's files.
        cwd="/",
        stdout_to_stderr=True,
        server=True,
    )


def _cluster(config: JobConfig, env: Environment, first: str) -> Mapping[str, list[str]]:
    tasks = tf_config.addresses(config, env.variables, contract.TASK_PORT)
    servers = tf_config.addresses(config, env.variables, contract.PARAMETER_SERVER_PORT)
    return {first: tasks[:1], "ps": servers, "worker": tasks[1:]}


def _shape(config: JobConfig) -> str:
    """The hyperparameter's; else that of the older toolkits, as long as the installed TensorFlow has tf.estimator."""
    shape = config.framework_parameters.get(contract.PARAMETER_SERVER_MODE)
    if shape is None:
        return "estimator" if _tensorflow_version() < _FIRST_WITHOUT_ESTIMATOR else "coordinator"
    if not isinstance(shape, str) or shape not in _FIRST:
        raise JobDescriptionError(
            f"{contract.HYPERPARAMETERS_FILE}: key {contract.PARAMETER_SERVER_MODE!r}: found {found_type(shape)}, "
            f"expected one of {', '.join(_FIRST)}"
        )
    return shape


def _tensorflow_version() -> tuple[int, ...]:
    """Of the distribution that provides TensorFlow, whatever its own name; without importing it, which takes seconds.

    The first version without tf.estimator where there is none: what fails then says so itself.
    """
    import importlib.metadata

    for distribution in importlib.metadata.distributions():
        if "tensorflow" in (distribution.read_text("top_level.txt") or "").split():
            numbers = re.match(r"(\d+)\.(\d+)", distribution.version)
            if numbers is not None:
                return int(numbers[1]), int(numbers[2])
    return _FIRST_WITHOUT_ESTIMATOR
