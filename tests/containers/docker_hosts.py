"""Hosts of one job as containers on a network of their own, for the tests of this folder."""

from __future__ import annotations

import fcntl
import functools
import json
import re
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import docker

from conftest import Job, wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
# The last with tf.estimator, and the newest.
ESTIMATOR, NEWEST = TENSORFLOWS = ("2.15.1", "2.21.0")
# Ten times what is aimed at: 2 s where a process died, 35 s where only silence tells that a host is gone.
DIED = 20.0
SILENT = 350.0

MPI = {"sagemaker_mpi_enabled": True}
MIRRORED = {"sagemaker_multi_worker_mirrored_strategy_enabled": True}
PARAMETER_SERVERS = {"sagemaker_parameter_server_enabled": True}


_building = threading.Lock()
_LOCK = Path(tempfile.gettempdir()) / "tf-toolkit-test-images.lock"


def image(tensorflow: str = NEWEST) -> str:
    """The CPU image of the working tree with Horovod, built once in a session; Docker keeps what did not change."""
    with _building, _LOCK.open("w") as lock:
        # Of the processes among which the tests are divided, any may be building it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _built(tensorflow)


def build_images() -> None:
    """Build them all, beside tests that need none: a first time takes minutes."""
    threading.Thread(target=lambda: [image(tensorflow) for tensorflow in TENSORFLOWS], daemon=True).start()


@functools.cache
def _built(tensorflow: str) -> str:
    tag = f"tf-toolkit:test-{tensorflow}"
    words = [str(ROOT / "scripts" / "build"), "cpu", "--tensorflow", tensorflow, "--horovod", "--tag", tag]
    built = subprocess.run(words, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-4000:]
    return tag


class Host:
    """A container, and the tree that is mounted at its /opt/ml."""

    def __init__(self, tree: Job, container: Any) -> None:
        self.tree = tree
        self.container = container

    def output(self, stdout: bool = True, stderr: bool = True) -> str:
        return bytes(self.container.logs(stdout=stdout, stderr=stderr)).decode(errors="replace")

    def wait_for(self, text: str, deadline: float = 60.0) -> None:
        try:
            wait_until(lambda: text in self.output(), f"{text!r} in the log", deadline)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.output()}") from None

    def run(self, *argv: str) -> str:
        """Run a command in the container; its output."""
        status, output = self.container.exec_run(argv)
        assert status == 0, output
        return bytes(output).decode()

    def kill_process(self, words: str) -> None:
        """KILL the one process whose command line holds the words."""
        code = """\
import os, pathlib, sys
found = [
    int(path.parent.name)
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")
    if sys.argv[1] in path.read_bytes().replace(b"\\0", b" ").decode() and int(path.parent.name) != os.getpid()
]
assert len(found) == 1, found
os.kill(found[0], 9)
"""
        self.run("python3", "-c", code, words)

    @property
    def _state(self) -> Mapping[str, Any]:
        self.container.reload()
        state: Mapping[str, Any] = self.container.attrs["State"]
        return state

    @property
    def running(self) -> bool:
        return bool(self._state["Running"])

    @property
    def status(self) -> int:
        return int(self._state["ExitCode"])

    @property
    def started(self) -> float:
        return _seconds(self._state["StartedAt"])

    @property
    def finished(self) -> float:
        """When it ended, in seconds since 1970."""
        return _seconds(self._state["FinishedAt"])

    @property
    def failure(self) -> str:
        return (self.tree.root / "output" / "failure").read_text()

    @property
    def headline(self) -> str:
        return self.failure.partition("\n")[0]

    @property
    def succeeded(self) -> bool:
        return (self.tree.root / "output" / "success").exists()


class Hosts:
    """The containers of one test, by name; all is removed at the end."""

    def __init__(self, root: Path, image: str) -> None:
        self._root = root
        self._image = image
        self._client: Any = docker.from_env()
        self._name = f"tf-toolkit-test-{uuid.uuid4().hex[:8]}"
        self._network = self._client.networks.create(self._name, driver="bridge")
        self._trees: dict[str, Job] = {}
        self._hosts: dict[str, Host] = {}
        # When the test did what it tests, in seconds since 1970.
        self._fault_at = 0.0

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        try:
            for host in self._hosts.values() if kind is not None else ():
                print(f"--- {host.tree.root.name}, {host.container.status}\n{host.output()}")
        finally:
            for host in self._hosts.values():
                host.container.remove(force=True, v=True)
            self._network.remove()
            self._client.close()

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def describe(
        self,
        program: str,
        parameters: Mapping[str, object],
        names: tuple[str, ...] = ("algo-1", "algo-2"),
        interface: str = "eth0",
    ) -> None:
        """Write a tree for each host: one of tests/programs, or another file, with its hyperparameters."""
        for name in names:
            tree = self._trees[name] = Job(self._root / name)
            tree.program(program)
            tree.hyperparameters(**{"sagemaker_program": Path(program).name, **parameters})
            tree.config("inputdataconfig", {})
            tree.config(
                "resourceconfig", {"current_host": name, "hosts": list(names), "network_interface_name": interface}
            )
            for folder in (tree.root, tree.root / "code"):
                # For hosts whose user is not the test's.
                folder.chmod(0o777)

    def channels(self, folder: Path) -> None:
        """Give every host the folders in this one as channels."""
        for tree in self._trees.values():
            shutil.copytree(folder, tree.root / "input" / "data")
            tree.config("inputdataconfig", {path.name: {"TrainingInputMode": "File"} for path in folder.iterdir()})

    def start(self, *names: str, hostname: bool = True, **options: Any) -> None:
        """Start the hosts with these names, all if none is given; ``options`` are those of docker-py."""
        for name in names or self._trees:
            aliases = self._client.api.create_endpoint_config(aliases=[name])
            container = self._client.containers.create(
                self._image,
                "train",
                name=f"{self._name}-{name}",
                hostname=name if hostname else None,
                network=self._name,
                networking_config={self._name: aliases},
                volumes={str(self._trees[name].root): {"bind": "/opt/ml", "mode": "rw"}},
                **options,
            )
            self._hosts[name] = Host(self._trees[name], container)
            container.start()

    def stranger(self, code: str, *arguments: str) -> Host:
        """A container on the same network that is no host of the job, and runs a Python program."""
        container = self._client.containers.run(
            self._image, ["python", "-c", code, *arguments], detach=True, network=self._name
        )
        host = self._hosts["stranger"] = Host(Job(self._root / "stranger"), container)
        return host

    def cut(self, name: str) -> None:
        """Cut a host off the network: its packets go nowhere, and no connection is closed."""
        self.fault()
        self._network.disconnect(self._hosts[name].container, force=True)

    def kill(self, name: str, signal: str = "SIGKILL") -> None:
        """Send a signal to a host's launcher; KILL ends the container with all that runs in it."""
        self.fault()
        self._hosts[name].container.kill(signal)

    def fault(self) -> None:
        """Note that what is tested happens now."""
        self._fault_at = time.time()

    def ends(self, deadline: float) -> dict[str, int]:
        """Wait until every host has ended; each one's exit status. Prints when they did, counted from the fault.

        A container that ended has no process left: the kernel sees to that.
        """
        job = {name: host for name, host in self._hosts.items() if name != "stranger"}
        wait_until(lambda: not any(host.running for host in job.values()), "all hosts end", deadline)
        output = "".join(host.output() for host in job.values())
        said = re.search(r"fault at ([0-9.]+)", output)
        at = float(said[1]) if said else self._fault_at
        for name, host in job.items():
            after = f"{host.finished - at:.2f} s after the fault" if at else f"{host.finished - host.started:.2f} s"
            print(f"{name}: status {host.status}, {after}")
            if not host.succeeded and (host.tree.root / "output" / "failure").exists():
                print(f"    {host.headline}")
        return {name: host.status for name, host in job.items()}


def _seconds(text: str) -> float:
    """Docker's time, with nanoseconds, as seconds since 1970."""
    return datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*Z$", r"\1", text).ljust(26, "0") + "+00:00").timestamp()


def seen(host: Host, name: str) -> Any:
    """What a program wrote for this host into its output directory."""
    return json.loads((host.tree.root / "output" / "data" / name).read_text())
