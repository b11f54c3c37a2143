"""Stage 4, decide: which processes a job needs. A strategy is a module with ``applies`` and ``processes``."""

from __future__ import annotations

from typing import Protocol

from tf_toolkit import contract
from tf_toolkit.config import JobConfig
from tf_toolkit.environment import Environment
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.process import Command, ProcessSpec
from tf_toolkit.strategies import mpi, multi_worker, parameter_server, single


class Strategy(Protocol):
    def applies(self, config: JobConfig) -> bool:
        """Whether the job asks for this strategy."""

    def processes(self, config: JobConfig, command: Command, env: Environment) -> tuple[ProcessSpec, ...]:
        """The processes of this host; nothing is started."""


# The first that applies; a host outside the distribution's instance groups runs the script alone.
STRATEGIES: dict[str, Strategy] = {
    "parameter_server": parameter_server,
    "mpi": mpi,
    "multi_worker_mirrored": multi_worker,
    "single": single,
}


def choose(config: JobConfig) -> tuple[str, Strategy]:
    """The strategy that the job asks for, and its name.

    Raises JobDescriptionError for the data-parallel library, which is closed and has left TensorFlow.
    """
    if config.flag(contract.DATA_PARALLEL_ENABLED):
        raise JobDescriptionError(
            f"{contract.HYPERPARAMETERS_FILE}: key {contract.DATA_PARALLEL_ENABLED!r}: SageMaker's data-parallel "
            "library no longer supports TensorFlow; use MultiWorkerMirroredStrategy or Horovod"
        )
    return next((name, strategy) for name, strategy in STRATEGIES.items() if strategy.applies(config))
