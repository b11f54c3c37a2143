"""The README names every name that the toolkit shares with its user."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tf_toolkit import contract, environment
from tf_toolkit.process import Command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

VARIABLES = {name for name, _ in environment.TABLE} | set(environment.DEFAULTS)
VARIABLES |= set(environment.command_variables(Command((), "", ""), {}))
VARIABLES |= {"SM_TOPOLOGY", "SM_HP_<NAME>", "SM_CHANNEL_<NAME>", "S3_REGION", contract.LEFT_OUT_FILE}
SETTINGS = {contract.STOP_GRACE, contract.REQUIREMENTS, contract.CLUSTER_KEY, contract.CLUSTER_WAIT}
HYPERPARAMETERS = contract.RESERVED | set(contract.DISTRIBUTION_FLAGS)
HYPERPARAMETERS |= {contract.MPI_PROCESSES_PER_HOST, contract.MPI_PROCESSES, contract.MPI_OPTIONS}
HYPERPARAMETERS |= {
    contract.MKL_ENABLED,
    contract.PARAMETER_SERVER_MODE,
    contract.DISTRIBUTION_INSTANCE_GROUPS,
    contract.MODEL_DIR,
}
EXIT_CODES = {
    contract.SUCCEEDED,
    contract.SOURCE_UNAVAILABLE,
    contract.CLUSTER_FAILED,
    contract.INSTALL_FAILED,
    contract.TOOLKIT_FAULT,
    contract.RESULT_NOT_WRITTEN,
    contract.JOB_DESCRIPTION_WRONG,
    contract.NOT_EXECUTABLE,
}


@pytest.mark.parametrize("name", sorted(VARIABLES | SETTINGS | HYPERPARAMETERS))
def test_every_name_is_in_the_readme(name: str) -> None:
    assert f"`{name}`" in README


@pytest.mark.parametrize("code", sorted(EXIT_CODES))
def test_every_exit_code_is_in_the_readme(code: int) -> None:
    assert re.search(rf"^\| {code} \|", README, re.MULTILINE)


def test_what_the_readme_runs_is_there() -> None:
    named = set(re.findall(r"\b(?:scripts|benchmarks)/[\w-]+\b", README))
    assert {"scripts/demo", "scripts/test"} <= named
    assert [name for name in named if not (ROOT / name).exists()] == []
