"""Builds a tree like the one that the platform mounts at /opt/ml, as the SageMaker Python SDK's local mode does.

Nothing is copied: the code and the channels are symbolic links to where they lie.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tf_toolkit import contract
from tf_toolkit.contract import Paths
from tf_toolkit.local.job import Job, UsageError

# In a directory of that name lies a tree of ours, which the next run may replace.
MARKER = ".tf-toolkit-run"
HOST = "algo-1"
# There is one host, and this is the one interface that every machine has.
INTERFACE = "lo"


def documents(job: Job) -> dict[str, dict[str, Any]]:
    """The three configuration files: name and content."""
    return {
        contract.RESOURCE_CONFIG_FILE: {
            "current_host": HOST,
            "hosts": [HOST],
            "network_interface_name": INTERFACE,
            "current_instance_type": "local",
        },
        contract.INPUT_DATA_CONFIG_FILE: {name: {"TrainingInputMode": "File"} for name in job.channels},
        # The SDK encodes what it sends itself as JSON; a person's own values are text, as on the platform.
        contract.HYPERPARAMETERS_FILE: {
            contract.PROGRAM: json.dumps(job.program),
            contract.SUBMIT_DIRECTORY: json.dumps(str(Paths(job.root).code)),
            contract.JOB_NAME: json.dumps(job.name),
            contract.LOG_LEVEL: "20",
            **job.hyperparameters,
        },
    }


def check_root(job: Job) -> None:
    """Raises UsageError where the job's root is neither new, nor empty, nor an earlier run's."""
    if not job.root_given:
        return
    try:
        found = [path.name for path in job.root.iterdir()]
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"--output {str(job.root)!r}: {error.strerror}; give another directory") from error
    if found and MARKER not in found:
        raise UsageError(
            f"--output {str(job.root)!r} holds files and is not of an earlier run; give a new or empty directory"
        )


@contextlib.contextmanager
def claimed(job: Job) -> Iterator[None]:
    """Within, the job's root is this run's alone, and empty of an earlier run's input, model and output."""
    check_root(job)
    try:
        job.root.mkdir(parents=True, exist_ok=job.root_given)
        marker = os.open(job.root / MARKER, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(f"{error.filename!r} cannot be made: {error.strerror}; give another --output") from error
    try:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"--output {str(job.root)!r} is in use by another run; give another directory") from error
        _empty(Paths(job.root))
        yield
    finally:
        os.close(marker)


def _empty(paths: Paths) -> None:
    if paths.code.exists() and not paths.code.is_symlink():
        raise UsageError(f"{str(paths.code)!r} is not the link that an earlier run made; give another --output")
    for path in (paths.code, paths.input, paths.model, paths.output):
        # What a link leads to is a person's own.
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)


def build(job: Job, root: Path) -> None:
    """Write the job's tree at ``root``, which is the job's own or stands for it. Raises OSError."""
    paths = Paths(root)
    for directory in (paths.input_config, paths.input_data, paths.model, paths.output_data):
        directory.mkdir(parents=True)
    for name, content in documents(job).items():
        (paths.input_config / name).write_text(json.dumps(content, indent=2), encoding="ascii")
    paths.code.symlink_to(job.source, target_is_directory=True)
    for name, path in job.channels.items():
        channel = paths.input_data / name
        if not path.is_dir():
            channel.mkdir()
            channel /= path.name
        channel.symlink_to(path)
