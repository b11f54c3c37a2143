"""Several hosts of one job on this machine: a `train` process each, over a tree of its own, on loopback addresses."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from conftest import DEADLINE, Job, Result, wait_until
from test_hardware import is_running

DISTRIBUTIONS = {
    "none": {},
    "mpi": {"sagemaker_mpi_enabled": "true", "sagemaker_mpi_num_of_processes_per_host": "2"},
    "parameter_server": {
        "sagemaker_parameter_server_enabled": "true",
        "sagemaker_parameter_server_mode": "estimator",
    },
    "multi_worker_mirrored": {"sagemaker_multi_worker_mirrored_strategy_enabled": "true"},
}


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens at."""
    while True:
        base = random.randrange(10_000, 30_000)
        try:
            for port in range(base, base + count):
                with socket.socket() as probe:
                    probe.bind(("", port))
            return base
        except OSError:
            continue


class Hosts:
    """A job on ``count`` hosts; ``code`` is every host's script."""

    def __init__(self, root: Path, count: int, code: str, distribution: str = "none", **hyperparameters: str) -> None:
        self.root = root
        self.names = [f"127.0.0.{number + 1}" for number in range(count)]
        self.port = free_ports(4 * count)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.started: dict[str, float] = {}
        self.jobs = {
            name: self._job(name, code, {**DISTRIBUTIONS[distribution], **hyperparameters}) for name in self.names
        }

    def _job(self, name: str, code: str, hyperparameters: dict[str, str]) -> Job:
        job = Job(self.root / name)
        job.config("resourceconfig", {"current_host": name, "hosts": self.names, "network_interface_name": "lo"})
        job.config("hyperparameters", hyperparameters)
        job.code("train.py", code)
        job.environ |= {
            "TF_TOOLKIT_LOCAL_PORTS": str(self.port),
            "TF_TOOLKIT_CLUSTER_WAIT": "60",
            "HOSTS": str(self.root),
        }
        return job

    def group(self, **groups: Sequence[str]) -> None:
        """Put the hosts into instance groups."""
        described = [
            {"instance_group_name": name, "instance_type": "local", "hosts": list(hosts)}
            for name, hosts in groups.items()
        ]
        for name, job in self.jobs.items():
            own = next(group for group, hosts in groups.items() if name in hosts)
            resources = {"current_host": name, "hosts": self.names, "network_interface_name": "lo"}
            job.config("resourceconfig", {**resources, "current_group_name": own, "instance_groups": described})

    def set(self, **environ: str) -> None:
        for job in self.jobs.values():
            job.environ |= environ

    def start(self, *names: str) -> None:
        for name in names or self.names:
            self.started[name] = time.monotonic()
            out = (self.root / f"{name}.out").open("wb")
            err = (self.root / f"{name}.err").open("wb")
            self.processes[name] = self.jobs[name].start(stdout=out, stderr=err)

    def finish(self, deadline: float = DEADLINE) -> dict[str, Result]:
        """How each host ended. Whatever is left of the job after that fails it."""
        end = time.monotonic() + deadline
        try:
            for process in self.processes.values():
                process.wait(timeout=max(0.1, end - time.monotonic()))
            wait_until(lambda: not self.left(), f"no process of the job is left: {self.left()}", 10.0)
        finally:
            for pid in self.left():
                try_kill(pid)
        return {name: self._result(name) for name in self.processes}

    def run(self, deadline: float = DEADLINE) -> dict[str, Result]:
        self.start()
        return self.finish(deadline)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        self.processes[name].send_signal(number)

    def out(self, name: str) -> str:
        return (self.root / f"{name}.out").read_text(errors="replace")

    def wait_for(self, text: str, *names: str) -> None:
        """Until the hosts' scripts have printed it."""
        for name in names or self.names:
            wait_until(lambda name=name: text in self.out(name), f"{name} prints {text!r}")  # type: ignore[misc]

    def left(self) -> list[int]:
        """Processes of the job, by their environment."""
        mark = f"HOSTS={self.root}".encode()
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (directory / "environ").read_bytes().split(b"\0") and is_running(int(directory.name)):
                    found.append(int(directory.name))
            except OSError:
                continue
        return found

    def _result(self, name: str) -> Result:
        out, err = ((self.root / f"{name}.{stream}").read_bytes() for stream in ("out", "err"))
        return Result(self.processes[name].returncode, out, err, self.root / name)


def try_kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def causes(results: dict[str, Result]) -> set[str]:
    """The first lines of the hosts' failure files; empty text for a host that succeeded."""
    return {"" if result.succeeded else result.failure.partition("\n")[0] for result in results.values()}
