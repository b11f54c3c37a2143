"""Each tree of tests/opt_ml, run by `train` as a process, in an environment that it may install into."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from conftest import DEADLINE
from opt_ml_case import CASES, Case


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python that has what this one has, and an environment of its own to install into."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    packages = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (packages / "lent.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    return tmp_path / "venv" / "bin" / "python"


@pytest.mark.parametrize("name", CASES)
def test_a_tree(tmp_path: Path, python: Path, name: str) -> None:
    case = Case(name, tmp_path / "ml")
    environ = {key: value for key, value in os.environ.items() if re.match("PIP_|LANG|LC_", key)}
    environ |= {"PATH": f"{python.parent}:/usr/bin:/bin", "SAGEMAKER_BASE_DIR": str(case.root)}
    ended = subprocess.run(
        [python, "-m", "tf_toolkit.train"],
        env=environ,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    case.check(ended)
