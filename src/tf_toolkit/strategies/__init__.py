"""Stage 4, decide: which processes a job needs. A strategy is a module with ``applies`` and ``processes``."""

from __future__ import annotations

from typing import Protocol

from tf_toolkit import contract
from tf_toolkit.config import JobConfig
from tf_toolkit.environment import Environment
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.process import Command, ProcessSpec
from tf_toolkit.strategies import single


class Strategy(Protocol):
    def applies(self, config: JobConfig) -> bool:
        """Whether the job asks for this strategy."""

    def processes(self, config: JobConfig, command: Command, env: Environment) -> tuple[ProcessSpec, ...]:
        """The processes of this host; nothing is started."""


# The first that applies.
STRATEGIES: dict[str, Strategy] = {"single": single}


def choose(config: JobConfig) -> tuple[str, Strategy]:
    """The strategy that the job asks for, and its name.

    Raises JobDescriptionError for a distribution that this version does not run: one process where the user asked for
    many would train something else than was asked.
    """
    several = len(config.distribution_hosts or config.hosts) > 1
    for flag, refused in (
        (contract.PARAMETER_SERVER_ENABLED, several),
        (contract.MULTI_WORKER_MIRRORED_ENABLED, True),
        (contract.MPI_ENABLED, True),
        (contract.DATA_PARALLEL_ENABLED, True),
    ):
        if refused and config.flag(flag):
            raise JobDescriptionError(f"hyperparameter {flag} asks for a distribution that this version does not run")
    return next((name, strategy) for name, strategy in STRATEGIES.items() if strategy.applies(config))
