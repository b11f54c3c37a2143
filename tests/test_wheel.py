"""The wheels: ours is pure Python, has few dependencies, and in an environment of its own it answers `train`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conftest import Job

ROOT = Path(__file__).parent.parent
# Building and installing reach for the package index.
DEADLINE = 300.0


def run(*argv: str | Path, **environ: str) -> str:
    done = subprocess.run(
        argv,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy of the sources, so that no earlier build's files get into it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "dist", folder)
    (built,) = (folder / "dist").iterdir()
    return built


def test_it_is_pure_python_and_alone_answers_train(wheel: Path, job: Job, tmp_path: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "tf_toolkit/serving/page.html" in zipfile.ZipFile(wheel).namelist()
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel)
    installed = run(python, "-m", "pip", "list", "--format=freeze").split()
    packages = {line.partition("==")[0] for line in installed if "==" in line}
    assert packages - {"pip", "setuptools"} == {"psutil", "retrying", "tf-toolkit"}

    job.code("train.py", "import os, sys; print(sys.prefix, os.environ['SM_MODEL_DIR'])\n")
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "train"],
        env={**job.environ, "PYTHONPATH": ""},
        cwd=job.root,
        stdout=subprocess.PIPE,
        check=False,
        timeout=DEADLINE,
    )

    assert done.returncode == 0
    assert done.stdout.decode().split() == [str(tmp_path / "venv"), str(job.root / "model")]
    assert (job.root / "output" / "success").exists()


@pytest.mark.parametrize("distribution", ["pipe_mode", "session"])
def test_what_is_compiled_is_left_out_where_no_compiler_is(tmp_path: Path, distribution: str) -> None:
    ignored = shutil.ignore_patterns("build", "*.egg-info")
    shutil.copytree(ROOT / distribution, tmp_path / "source", ignore=ignored)

    wheels = ("--wheel-dir", tmp_path / "dist")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *wheels, tmp_path / "source", CC="false")

    (built,) = (tmp_path / "dist").iterdir()
    names = zipfile.ZipFile(built).namelist()
    assert any(name.endswith("/METADATA") for name in names)
    assert not any(name.endswith(".so") for name in names)
