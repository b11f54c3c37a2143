"""MultiWorkerMirroredStrategy: every host is a worker, and the user's script builds the strategy from TF_CONFIG."""

from __future__ import annotations

from tf_toolkit import contract, mkl, tf_config
from tf_toolkit.config import JobConfig
from tf_toolkit.environment import Environment, command_variables
from tf_toolkit.process import Command, ProcessSpec


def applies(config: JobConfig) -> bool:
    """With one host too: the same script then trains as the only worker."""
    return config.flag(contract.MULTI_WORKER_MIRRORED_ENABLED) and config.current_host in config.distribution_hosts


def processes(config: JobConfig, command: Command, env: Environment) -> tuple[ProcessSpec, ...]:
    """The user's script."""
    script = {
        **env.variables,
        **mkl.variables(config, env.hardware.cpus, 1, env.variables),
        **command_variables(command, env.variables),
        **tf_config.multi_worker(config, env.variables),
    }
    return (ProcessSpec("script", (*command.argv, *env.arguments), script, command.directory),)
