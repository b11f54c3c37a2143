"""The framing parser against what atheris makes up, led by which lines of the parser each try has reached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import DEADLINE, PROGRAMS

RUNS = 30_000


def test_the_parser_loses_nothing_and_makes_nothing_up(tmp_path: Path) -> None:
    # The same tries each time; what fails is left in tmp_path.
    command = [sys.executable, str(PROGRAMS / "pipe_mode" / "fuzz.py"), f"-runs={RUNS}", "-seed=1"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}

    done = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=10 * DEADLINE
    )

    assert done.returncode == 0, done.stderr
    assert f"Done {RUNS} runs" in done.stderr
