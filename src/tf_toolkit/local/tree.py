"""Builds trees like the one that the platform mounts at /opt/ml, as the SageMaker Python SDK's local mode does.

Nothing is copied: the code and the channels are symbolic links to where they lie. Several hosts have a tree each, in
which `model` is a link to the one model directory of all.
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
from tf_toolkit.local.job import FILE, PIPE, Job, UsageError

# In a directory of that name lies a tree of ours, which the next run may replace.
MARKER = ".tf-toolkit-run"
# All hosts are this machine, and this is the one interface that every machine has.
_INTERFACE = "lo"
# Docker's name for it.
_CONTAINER_INTERFACE = "eth0"
# The directory of one of several hosts, whose names are hosts.py's.
_HOSTS = ("127.0.0.*", "algo-[1-9]*")


def documents(job: Job, host: str) -> dict[str, dict[str, Any]]:
    """The three configuration files of a host: name and content."""
    container = job.container
    return {
        contract.RESOURCE_CONFIG_FILE: {
            "current_host": host,
            "hosts": list(job.hosts),
            "network_interface_name": _INTERFACE if container is None else _CONTAINER_INTERFACE,
            "current_instance_type": "local" if container is None or container.gpus is None else "local_gpu",
        },
        contract.INPUT_DATA_CONFIG_FILE: dict.fromkeys(job.channels, _channel(job)),
        # The SDK encodes what it sends itself as JSON; a person's own values are text, as on the platform.
        contract.HYPERPARAMETERS_FILE: {
            contract.PROGRAM: json.dumps(job.program),
            contract.SUBMIT_DIRECTORY: json.dumps(str(job.inside(host).code)),
            contract.JOB_NAME: json.dumps(job.name),
            contract.LOG_LEVEL: "20",
            **job.hyperparameters,
        },
    }


def _channel(job: Job) -> dict[str, str]:
    if job.pipe_mode is None:
        return {contract.INPUT_MODE: FILE}
    compression = job.pipe_mode.compression
    return {contract.INPUT_MODE: PIPE, **({} if compression is None else {"CompressionType": compression})}


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
        _empty(job.root)
        yield
    finally:
        os.close(marker)


def _empty(root: Path) -> None:
    hosts = sorted(path for pattern in _HOSTS for path in root.glob(pattern) if not path.is_symlink())
    trees = [Paths(root), *map(Paths, hosts)]
    for paths in trees:
        if paths.code.exists() and not paths.code.is_symlink():
            raise UsageError(f"{str(paths.code)!r} is not the link that an earlier run made; give another --output")
    for paths in trees:
        for path in (paths.code, paths.input, paths.model, paths.output, paths.pipe_state):
            _remove(path)
    for paths in trees[1:]:
        # Others may keep something of their own in there.
        with contextlib.suppress(OSError):
            paths.root.rmdir()


def _remove(path: Path) -> None:
    # What a link leads to is a person's own.
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def build(job: Job, root: Path) -> None:
    """Write the trees of the job's hosts at ``root``, which is the job's own or stands for it. Raises OSError."""
    model = Paths(root).model
    model.mkdir(parents=True)
    for host in job.hosts:
        paths = job.tree_below(root, host)
        for directory in (paths.input_config, paths.input_data, paths.output_data):
            directory.mkdir(parents=True)
        if paths.model != model:
            paths.model.symlink_to(Path(os.path.relpath(model, paths.root)), target_is_directory=True)
        _fill(job, host, paths)


def _fill(job: Job, host: str, paths: Paths) -> None:
    for name, content in documents(job, host).items():
        (paths.input_config / name).write_text(json.dumps(content, indent=2), encoding="ascii")
    paths.code.symlink_to(job.source, target_is_directory=True)
    # Channels in Pipe mode are fed while the job runs.
    for name, path in job.channels.items() if job.pipe_mode is None else ():
        channel = paths.input_data / name
        if not path.is_dir():
            channel.mkdir()
            channel /= path.name
        channel.symlink_to(path)
