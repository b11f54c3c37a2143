"""What the benchmarks share: environments to compare, a tree as the platform mounts it, numbers and tables."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "benchmarks"

SAGEMAKER_TRAINING = "sagemaker-training==5.1.4"
# The TensorFlow toolkit pins an older sagemaker-training and NumPy, so it goes in without its dependencies. The newest
# TensorFlow that both run on is 2.19: sagemaker-training needs a protobuf that TensorFlow 2.15 excludes.
TENSORFLOW_PATH = (
    ("tensorflow-cpu==2.19.1", SAGEMAKER_TRAINING),
    ("--no-deps", "sagemaker-tensorflow-training==20.5.0"),
)
TENSORFLOW_MODULE = "sagemaker_tensorflow_container.training:main"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    """One line about where this was measured."""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return f"Python {platform.python_version()}, {platform.release()}, {os.cpu_count()} CPUs, load at the start {load}"


def pip(venv: Path, *arguments: str) -> None:
    command = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise SystemExit(f"{' '.join(command)} failed; sagemaker-training needs gcc and Python's headers to install")


def fresh_environment(path: Path) -> Path:
    """A virtual environment with nothing but pip in it."""
    shutil.rmtree(path, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", path], check=True)
    return path


def environment(name: str, steps: Iterable[Sequence[str]]) -> Path:
    """A virtual environment with what the steps of ``pip install`` put in it; made once."""
    venv = CACHE / name
    wanted = json.dumps([platform.python_version(), *map(list, steps)])
    stamp = venv / "installed.json"
    if not stamp.exists() or stamp.read_text() != wanted:
        say(f"making {venv}")
        fresh_environment(venv)
        for step in steps:
            pip(venv, "install", "--quiet", *step)
        stamp.write_text(wanted)
    return venv


def wheel(folder: Path = ROOT) -> Path:
    """A wheel of ours, built of the sources as they are."""
    names = ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE")
    about = [folder / name for name in names if (folder / name).exists()]
    code = sorted(path for path in (folder / "src").rglob("*") if path.suffix in {".py", ".c", ".h", ".pth"})
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in [*about, *code])).hexdigest()[:16]
    wheels = CACHE / "wheels" / digest
    if not list(wheels.glob("*.whl")):
        builder = environment("builder", [("wheel",)])
        # Out of a copy: in place, setuptools would put what an earlier build left behind into the wheel.
        with tempfile.TemporaryDirectory() as copy:
            for path in about:
                shutil.copy(path, copy)
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(folder / "src", Path(copy, "src"), ignore=ignored)
            pip(builder, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), copy)
    (built,) = wheels.glob("*.whl")
    return built


def ours() -> Path:
    return environment("tf-toolkit", [(str(wheel()),)])


def docker(*arguments: str) -> str:
    done = subprocess.run(
        ["docker", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"docker {' '.join(arguments)} failed:\n{done.stdout}")
    return done.stdout


def image() -> str:
    """Our CPU image, built of the sources as they are; Docker keeps what did not change."""
    say("building the images")
    command = [str(ROOT / "scripts" / "build"), "cpu", "--tag", "tf-toolkit:benchmark"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


class Job:
    """A tree like /opt/ml with one script in it, for any launcher, and the environment to start one in.

    ``mounted`` is where the launcher finds it, if not where it lies.
    """

    def __init__(self, root: Path, script: str, mounted: Path | None = None) -> None:
        self.root = root
        self.script = root / "code" / "train.py"
        for folder in ("code", "input/config", "model", "output/data"):
            (root / folder).mkdir(parents=True)
        self.script.write_text(script)
        self._config(
            "hyperparameters",
            # JSON in strings, as the service sends them.
            {
                "sagemaker_program": '"train.py"',
                "sagemaker_submit_directory": json.dumps(str((mounted or root) / "code")),
                "sagemaker_region": '"us-west-2"',
                "epochs": "10",
            },
        )
        # A name that resolves: sagemaker-training waits for that, 15 minutes if need be.
        hosts = ["localhost"]
        group = {"instance_group_name": "homogeneousCluster", "instance_type": "ml.c5.large", "hosts": hosts}
        self._config(
            "resourceconfig",
            {
                "current_host": hosts[0],
                "hosts": hosts,
                "network_interface_name": "eth0",
                "current_instance_type": "ml.c5.large",
                "current_group_name": "homogeneousCluster",
                "instance_groups": [group],
            },
        )
        self._config("inputdataconfig", {})

    def _config(self, name: str, content: object) -> None:
        (self.root / "input" / "config" / f"{name}.json").write_text(json.dumps(content))

    def environ(self, venv: Path, **more: str) -> dict[str, str]:
        return {
            "PATH": f"{venv / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.root),
            "LANG": "C.UTF-8",
            "SAGEMAKER_BASE_DIR": str(self.root),
            "AWS_DEFAULT_REGION": "us-west-2",
            **more,
        }


def median(values: Sequence[float], unit: float = 1.0, digits: int = 0) -> str:
    """``median (smallest-largest)`` of values divided by ``unit``."""
    middle, low, high = (round(value / unit, digits) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def ratio(above: Sequence[float], below: Sequence[float], digits: int = 1) -> str:
    """The median of the rounds' ratios, with their range."""
    return median([a / b for a, b in zip(above, below)], 1.0, digits)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)
