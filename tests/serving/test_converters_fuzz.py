"""What reads strangers' bytes against what atheris makes up, led by which lines of it each try has reached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import DEADLINE, PROGRAMS

FUZZ = PROGRAMS / "serving" / "fuzz" / "fuzz.py"


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("json_document", 6000),
        ("predict", 6000),
        ("invocation", 8000),
        ("examples", 4000),
        ("headers", 3000),
        ("model_file", 2500),
        ("warm_up_file", 3000),
    ],
)
def test_it_makes_a_value_or_one_error(target: str, runs: int, tmp_path: Path) -> None:
    # The same tries each time, long ones from the first; what fails is left in tmp_path.
    command = [sys.executable, str(FUZZ), target, f"-runs={runs}", "-seed=1", "-len_control=0", "-max_len=500"]
    environ = {**os.environ, "TMPDIR": str(tmp_path)}

    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, check=False, timeout=10 * DEADLINE)

    log = done.stderr.decode(errors="replace")
    assert done.returncode == 0, log
    assert f"Done {runs} runs" in log
