"""A job of Open MPI in a tree of its own, for tests: what its launchers would know of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tf_toolkit import contract
from tf_toolkit.config import JobConfig, read_config
from tf_toolkit.contract import Paths
from tf_toolkit.environment import Environment, build_environment
from tf_toolkit.hardware import Hardware
from tf_toolkit.process import Command

ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith(("SM_", "OMPI_", "NCCL_"))}
HARDWARE = Hardware(cpus=4, gpus=0, neurons=0, warnings=())


class Host(NamedTuple):
    config: JobConfig
    env: Environment


def host(
    root: Path,
    current: str = "algo-1",
    hosts: Sequence[str] = ("algo-1",),
    *,
    environ: Mapping[str, str] = ENVIRON,
    arguments: Sequence[str] = (),
    hardware: Hardware = HARDWARE,
    resource: Mapping[str, Any] | None = None,
    hyperparameters: Mapping[str, object] | None = None,
) -> Host:
    """One host of a job that uses Open MPI."""
    directory = root / current / "input" / "config"
    directory.mkdir(parents=True, exist_ok=True)
    described = {"current_host": current, "hosts": list(hosts), "network_interface_name": "eth0", **(resource or {})}
    (directory / "resourceconfig.json").write_text(json.dumps(described))
    parameters = {contract.MPI_ENABLED: True, **(hyperparameters or {})}
    encoded = {name: value if isinstance(value, str) else json.dumps(value) for name, value in parameters.items()}
    (directory / "hyperparameters.json").write_text(json.dumps(encoded))
    paths = Paths(root / current)
    config = read_config(paths, environ)
    return Host(config, build_environment(config, hardware, paths, environ, arguments))


def script(directory: Path, code: str) -> Command:
    """The command of a Python script with this code."""
    (directory / "train.py").write_text(code)
    return Command((sys.executable, "--", "train.py"), str(directory), "train.py")
