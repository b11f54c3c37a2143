"""``tf-toolkit run``: the program ``train`` as a process of this machine for each host, over a tree built for it.

With --image each host is a container instead: containers/
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from tf_toolkit import contract, signals, supervisor
from tf_toolkit.local import hosts, tree
from tf_toolkit.local.channel_files import FeedError
from tf_toolkit.local.feeder import Feeder
from tf_toolkit.local.job import Container, Job
from tf_toolkit.local.terminal import progress, say
from tf_toolkit.process import ProcessSpec
from tf_toolkit.requirements import REQUIREMENTS_FILE
from tf_toolkit.stderr import Around

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
    contract.LOCAL_PORTS,
    contract.DOOR,
)
_STALE_PREFIXES = ("SM_HP_", "SM_CHANNEL_")


def run(job: Job, environ: Mapping[str, str]) -> int:
    """Run the job to its end; the exit status of its ``train``, or of the first host's that failed."""
    feeder = Feeder(job)
    with tree.claimed(job):
        if job.container is None:
            statuses = _run_processes(job, environ, feeder)
        else:
            statuses = _run_containers(job, job.container, feeder)
    status = next((status for status in statuses if status != 0), 0)
    if feeder.error is not None:
        status = feeder.error.exit_code
        _put_down(job, feeder.error)
    _say_where(job, status)
    return status


def _run_containers(job: Job, container: Container, feeder: Feeder) -> list[int]:
    # Only who asks for containers pays for what they take.
    from tf_toolkit.local.containers import run_in_containers

    return run_in_containers(job, container, _grace(container.variables), feeder)


def _run_processes(job: Job, environ: Mapping[str, str], feeder: Feeder) -> list[int]:
    with signals.interruptible():
        tree.build(job, job.root)
    if not job.requirements and (job.source / REQUIREMENTS_FILE).is_file():
        say(f"{REQUIREMENTS_FILE} is not installed; --requirements installs it into this Python's environment")
    specs = [_train(job, host, variables) for host, variables in variables_of(job, environ).items()]
    with feeder.feeding(), _around(job) as around:
        return [end.status for end in supervisor.run(specs, _grace(environ), around)]


def _train(job: Job, host: str, variables: Mapping[str, str]) -> ProcessSpec:
    several = len(job.hosts) > 1
    return ProcessSpec(
        role=f"train on {host}" if several else "train",
        argv=(sys.executable, "-m", "tf_toolkit.train", *job.arguments),
        env=variables,
        # Python looks for modules in the working directory first, and here are none.
        cwd=str(job.tree(host).input_config),
        # The hosts of a job end one another.
        independent=several,
        prefix=f"[{host}] " if several else "",
    )


@contextlib.contextmanager
def _around(job: Job) -> Iterator[Around]:
    """What is to be done around each piece of output."""
    if len(job.hosts) == 1:
        with progress(job.tree(job.hosts[0])) as around:
            yield around
    else:
        # One host's line after another's.
        lock = threading.Lock()
        yield lambda piece: lock


def variables_of(job: Job, environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The environment that ``train`` is started with, by host."""
    variables = {
        name: value for name, value in environ.items() if name not in _STALE and not name.startswith(_STALE_PREFIXES)
    }
    variables |= {"TRAINING_JOB_NAME": job.name, **hosts.variables(job.hosts, environ)}
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
    return {host: {**variables, "SAGEMAKER_BASE_DIR": str(job.tree(host).root)} for host in job.hosts}


def _grace(environ: Mapping[str, str]) -> float:
    """Longer than the inner one, which `train` checks."""
    try:
        inner = float(environ.get(contract.STOP_GRACE) or contract.STOP_GRACE_SECONDS)
    except ValueError:
        inner = 0.0
    return (inner if math.isfinite(inner) else 0.0) + _REPORT_SECONDS


def _put_down(job: Job, error: FeedError) -> None:
    """Have the hosts' results tell why the job was ended, in place of what the scripts made of it."""
    for paths in map(job.tree, job.hosts):
        try:
            for path in (paths.success, paths.failure):
                path.unlink(missing_ok=True)
            paths.failure.write_text(f"{error.fault}: {error}\n", encoding="utf-8", errors="replace")
        except OSError as denied:
            say(f"error: {error}; {denied.filename}: {denied.strerror}")


def _say_where(job: Job, status: int) -> None:
    """Say where the results lie."""
    say(f"model: {job.model}" if _holds_files(job.model) else f"model: none; {job.model} is empty")
    trees = [job.tree(host) for host in job.hosts]
    for paths in trees:
        if _holds_files(paths.output_data):
            say(f"output: {paths.output_data}")
    # The hosts of a job write the same cause.
    failures: dict[str, Path] = {}
    for paths in trees:
        line = _first_line(paths.failure)
        if line is not None:
            failures.setdefault(line, paths.failure)
    for line, path in failures.items():
        say(f"failure: {path}: {line}")
    if status != 0 and not failures:
        say(f"the job ended with status {status} and left no {trees[0].failure}")


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
