"""One process on this host: the user's script."""

from __future__ import annotations

from tf_toolkit import mkl
from tf_toolkit.config import JobConfig
from tf_toolkit.environment import Environment, command_variables
from tf_toolkit.process import Command, ProcessSpec


def applies(config: JobConfig) -> bool:
    return True


def processes(config: JobConfig, command: Command, env: Environment) -> tuple[ProcessSpec, ...]:
    variables = {
        **env.variables,
        **mkl.variables(config, env.hardware.cpus, 1, env.variables),
        **command_variables(command, env.variables),
    }
    return (ProcessSpec("script", (*command.argv, *env.arguments), variables, command.directory),)
