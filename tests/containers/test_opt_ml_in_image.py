"""Each tree of tests/opt_ml, run by plain `docker run`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from docker_hosts import image

from conftest import DEADLINE
from opt_ml_case import CASES, Case

pytestmark = pytest.mark.containers


@pytest.mark.parametrize("name", CASES)
def test_a_tree(tmp_path: Path, name: str) -> None:
    case = Case(name, tmp_path / "ml")
    ended = subprocess.run(
        ["docker", "run", "--rm", "--volume", f"{case.root}:/opt/ml", image(), "train"],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    case.check(ended)
