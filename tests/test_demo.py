"""The first thing a new user runs: from a script and data to a model that answers, on both versions of TensorFlow."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("tensorflow", ["newest", "2.15"])
def test_the_demo_trains_a_model_that_knows_digits(tensorflow: str) -> None:
    demo = subprocess.run(
        [ROOT / "scripts" / "demo", "--tensorflow", tensorflow],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # It may have to install TensorFlow first.
        timeout=900,
    )

    assert demo.returncode == 0, demo.stdout
    accuracy = re.search(r"^test accuracy: ([0-9.]+)$", demo.stdout, re.MULTILINE)
    assert accuracy is not None, demo.stdout
    assert float(accuracy[1]) > 0.9
    assert (ROOT / ".demo" / "job" / "model" / "1" / "saved_model.pb").is_file()
    assert (ROOT / ".demo" / "job" / "output" / "success").is_file()
