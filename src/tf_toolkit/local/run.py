"""``tf-toolkit run``: the program ``train`` as a process of this machine, over a tree built for it."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tf_toolkit import contract, signals, supervisor
from tf_toolkit.contract import Paths
from tf_toolkit.local import tree
from tf_toolkit.local.job import Job
from tf_toolkit.local.terminal import progress, say
from tf_toolkit.process import ProcessSpec
from tf_toolkit.requirements import REQUIREMENTS_FILE

# `train` ends its script after its own grace. This is for what follows: leftovers, intermediate output, the report.
_REPORT_SECONDS = 900.0
_FIRST_LINE_BYTES = 1024
# These say which job it is; left over from the job that this one is started in, they would say another.
_STALE = (
    "SAGEMAKER_PROGRAM",
    "SAGEMAKER_SUBMIT_DIRECTORY",
    "SAGEMAKER_TRAINING_MODULE",
    "SM_TOPOLOGY",
    contract.LEFT_OUT_FILE,
)
_STALE_PREFIXES = ("SM_HP_", "SM_CHANNEL_")


def run(job: Job, environ: Mapping[str, str]) -> int:
    """Run the job to its end; the exit status of its ``train``."""
    paths = Paths(job.root)
    variables = variables_of(job, environ)
    with tree.claimed(job):
        with signals.interruptible():
            tree.build(job, job.root)
        if not job.requirements and (paths.code / REQUIREMENTS_FILE).is_file():
            say(f"{REQUIREMENTS_FILE} is not installed; --requirements installs it into this Python's environment")
        spec = ProcessSpec(
            role="train",
            argv=(sys.executable, "-m", "tf_toolkit.train", *job.arguments),
            env=variables,
            # Python looks for modules in the working directory first, and here are none.
            cwd=str(paths.input_config),
        )
        with progress(paths) as around:
            (end,) = supervisor.run([spec], _grace(environ), around)
    _say_where(paths, end.status)
    return end.status


def variables_of(job: Job, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment that ``train`` is started with."""
    variables = {
        name: value for name, value in environ.items() if name not in _STALE and not name.startswith(_STALE_PREFIXES)
    }
    variables |= {"SAGEMAKER_BASE_DIR": str(job.root), "TRAINING_JOB_NAME": job.name}
    if not job.requirements:
        variables[contract.REQUIREMENTS] = "skip"
    elif variables.get(contract.REQUIREMENTS) == "skip":
        del variables[contract.REQUIREMENTS]
    # An image's Python is the job's to change; a machine's own is not.
    variables.setdefault("PIP_BREAK_SYSTEM_PACKAGES", "0")
    if variables.get("PYTHONPATH"):
        # Relative to where the person is, which is not where the script runs.
        variables["PYTHONPATH"] = os.pathsep.join(
            str(Path(entry).absolute()) for entry in variables["PYTHONPATH"].split(os.pathsep)
        )
    return variables


def _grace(environ: Mapping[str, str]) -> float:
    """Longer than the inner one, which `train` checks."""
    try:
        inner = float(environ.get(contract.STOP_GRACE) or contract.STOP_GRACE_SECONDS)
    except ValueError:
        inner = 0.0
    return (inner if math.isfinite(inner) else 0.0) + _REPORT_SECONDS


def _say_where(paths: Paths, status: int) -> None:
    """Say where the results lie."""
    say(f"model: {paths.model}" if _holds_files(paths.model) else f"model: none; {paths.model} is empty")
    if _holds_files(paths.output_data):
        say(f"output: {paths.output_data}")
    line = _first_line(paths.failure)
    if line is not None:
        say(f"failure: {paths.failure}: {line}")
    elif status != 0:
        say(f"the job ended with status {status} and left no {paths.failure}")


def _holds_files(directory: Path) -> bool:
    try:
        return directory.is_dir() and any(directory.iterdir())
    except OSError:
        return False


def _first_line(path: Path) -> str | None:
    try:
        # Not blocking: whatever the script may have put there.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(file, _FIRST_LINE_BYTES).partition(b"\n")[0].decode(errors="replace")
        finally:
            os.close(file)
    except OSError:
        return None
