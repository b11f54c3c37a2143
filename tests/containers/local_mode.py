"""Jobs by the SageMaker Python SDK in local mode: a folder as its user has it, a client, and what comes back."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import docker
import pytest
from docker_hosts import ROOT
from offline import popen as without_network

from conftest import AWS_ENVIRON, DEADLINE, PROGRAMS

if TYPE_CHECKING:
    from typing_extensions import Self

# Hosts that each import TensorFlow, on the same few CPUs.
JOB_DEADLINE = 10 * DEADLINE
# Whom the code belongs to. Containers run as root, so a file of root's is one that a job left behind.
USER = 1000
CLIENTS = ROOT / "tests" / "clients"
_CONFIG = "SageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\nSchemaVersion: '1.0'\n"


class Ended(NamedTuple):
    """How a job ended, as the SDK's user sees it: files are by their names in the archives."""

    log: str
    hyperparameters: dict[str, Any]
    error: str | None
    model: Mapping[str, bytes]
    output: Mapping[str, bytes]

    @property
    def headline(self) -> str:
        return self.output["failure"].decode().partition("\n")[0]

    def seen(self, name: str = "seen.json") -> Any:
        """What a script wrote into its output directory."""
        return json.loads(self.output[f"data/{name}"])


class Client:
    """A program of tests/clients, in a folder of its own; containers that it leaves are removed at the end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._client: subprocess.Popen[bytes] | None = None
        for name in ("home", "tmp"):
            (root / name).mkdir()
        (root / "home" / "sagemaker.yaml").write_text(_CONFIG)
        self._docker: Any = docker.from_env()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._client is not None:
            print(self.log)
            if self._client.poll() is None:
                os.killpg(self._client.pid, signal.SIGKILL)
                self._client.wait()
        projects = set()
        for container in self.containers():
            projects.add(container.labels["com.docker.compose.project"])
            container.remove(force=True, v=True)
        for network in self._docker.networks.list(names=["sagemaker-local"]):
            if network.attrs["Labels"].get("com.docker.compose.project") in projects:
                network.remove()
        self._docker.close()

    def containers(self) -> list[Any]:
        """The client's containers, also those that have ended: the SDK removes none."""
        label = "com.docker.compose.project.config_files"
        found = self._docker.containers.list(all=True, filters={"label": label})
        return [container for container in found if container.labels[label].startswith(f"{self.root}/")]

    @property
    def log(self) -> str:
        """What the client has printed so far, the containers' output in it."""
        return (self.root / "log").read_text(errors="replace")

    def begin(
        self,
        sdk: int,
        program: str,
        *words: str,
        offline: bool = True,
        ports: Sequence[int] = (),
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start the program; without a network, it has but the daemon's socket and these ports of this machine.

        Its containers have their own network.
        """
        python = os.environ.get(f"TF_TOOLKIT_TEST_SDK{sdk}_PYTHON")
        if not python:
            pytest.skip(f"TF_TOOLKIT_TEST_SDK{sdk}_PYTHON names no Python with the SDK: see scripts/setup-clients")
        if os.geteuid() != 0:
            pytest.skip("only root can run the SDK without a network")
        start = functools.partial(without_network, ports=ports) if offline else subprocess.Popen
        with (self.root / "log").open("wb") as log:
            self._client = start(
                [python, CLIENTS / program, *words],
                cwd=self.root,
                env={**self._environ(), **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own, as a shell gives it to what is run in a terminal.
                start_new_session=True,
            )
        return self._client

    def _environ(self) -> dict[str, str]:
        path = [os.environ.get("TF_TOOLKIT_TEST_COMPOSE"), os.environ["PATH"]]
        return {
            **AWS_ENVIRON,
            "HOME": str(self.root / "home"),
            "PATH": os.pathsep.join(filter(None, path)),
            "PYTHONUNBUFFERED": "1",
            "SAGEMAKER_USER_CONFIG_OVERRIDE": str(self.root / "home" / "sagemaker.yaml"),
            "TMPDIR": str(self.root / "tmp"),
        }


class LocalMode(Client):
    """One job: its code, its channels, and a client.

    ``program`` is a folder of tests/programs/clients, or any file, as the job's train.py. ``data`` has the channels.
    """

    def __init__(self, root: Path, program: str | Path, data: Path | None = None) -> None:
        super().__init__(root)
        self.code = root / "code"
        self._given: object = None
        for channel in ("train", "test"):
            if data is not None:
                shutil.copytree(data / channel, root / channel)
            else:
                (root / channel).mkdir()
                (root / channel / f"{channel}.csv").write_text("1,2\n")
        if isinstance(program, Path):
            self.code.mkdir()
            shutil.copy(program, self.code / "train.py")
        else:
            shutil.copytree(PROGRAMS / "clients" / program, self.code)

    def start(self, sdk: int, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start the client; options are those of :meth:`begin`."""
        for path in (self.code, *self.code.rglob("*")):
            os.chown(path, USER, USER)
        self._given = self._code()
        return self.begin(sdk, f"sdk{sdk}.py", *words, **options)

    def run(self, sdk: int, *words: str, **options: Any) -> Ended:
        """Run the client to its end; the job may have failed, but the client has not, and the code is as it was."""
        status = self.start(sdk, *words, **options).wait(JOB_DEADLINE)
        assert status == 0, "the client itself failed"
        assert self._code() == self._given
        said = json.loads(self.log.splitlines()[-1])
        model, output = (self._archive(f"{name}.tar.gz") for name in ("model", "output"))
        return Ended(self.log, said["hyperparameters"], said["error"], model, output)

    def _archive(self, name: str) -> Mapping[str, bytes]:
        found = list((self.root / "out").rglob(name))
        return unpacked(found[0]) if found else {}

    def _code(self) -> dict[str, tuple[int, int, bytes]]:
        """Every file and folder of the code: whose it is, its mode and its content."""
        paths = [self.code, *self.code.rglob("*")]
        content = {path: path.read_bytes() if path.is_file() else b"" for path in paths}
        return {str(path): (path.stat().st_uid, path.stat().st_mode, content[path]) for path in paths}


def unpacked(archive: Path) -> Mapping[str, bytes]:
    """The files of a tar archive by name."""
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
