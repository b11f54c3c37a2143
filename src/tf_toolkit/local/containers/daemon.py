"""The Docker daemon, which may be another machine's: what a run makes there bears its label, and goes with it."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from tf_toolkit import contract, signals
from tf_toolkit.contract import Paths
from tf_toolkit.local.containers.client import DockerError, Missing, api_client, asked
from tf_toolkit.local.job import Container
from tf_toolkit.local.terminal import say

LABEL = "tf-toolkit.run"
# Docker's own 64 MiB are little: Open MPI, NCCL and readers of data talk through it.
_SHARED_MEMORY = 1 << 30
_HEADER_BYTES = 8
_STDOUT = 1
_NOT_RUNNING = 409
_PIECE = 64 * 1024


class Bind(NamedTuple):
    """What a container sees of this machine, and cannot write to."""

    what: str
    source: Path
    target: Path


@contextlib.contextmanager
def connected(name: str) -> Iterator[Daemon]:
    """A daemon, and a label on it made of ``name``; what bears it is removed at the end, unless it is to be kept."""
    with signals.interruptible():
        client = api_client()
    daemon = Daemon(client, f"tf-toolkit-{name}-{secrets.token_hex(4)}")
    try:
        yield daemon
    finally:
        daemon.remove_all()
        daemon.close()


class Daemon:
    """What a run does on the daemon. Raises DockerError."""

    def __init__(self, client: Any, run: str) -> None:
        self._client = client
        # The label's value; the names of all that is made begin with it.
        self.run = run
        self._labels = {LABEL: run}
        self._kept = False

    def image(self, name: str) -> str:
        """The id of an image."""
        try:
            with asked(f"--image {name!r}"):
                return str(self._client.inspect_image(name)["Id"])
        except Missing as error:
            raise Missing(
                f"--image {name!r}: the Docker daemon has no such image; `docker pull {name}` or `docker build` first"
            ) from error

    def check_pipes(self) -> None:
        """Raises DockerError where a FIFO of this machine cannot reach a container, as on another kernel."""
        with asked("the Docker daemon does not say where it is"):
            kernel = self._client.info()["KernelVersion"]
        if kernel != os.uname().release:
            raise DockerError(
                "--input-mode Pipe: the Docker daemon is on another machine, or in a virtual one, which no FIFO of "
                "this machine reaches; run without --image, or with a daemon of this machine"
            )

    # What is made is made whole: a stop in between would leave something that is made after the removal.

    def network(self) -> None:
        """Make the run's network."""
        with signals.interruptible(False), asked("the Docker daemon made no network"):
            self._client.create_network(self.run, driver="bridge", labels=self._labels)

    def volume(self) -> None:
        """Make the run's volume, which is the model directory of all hosts."""
        with signals.interruptible(False), asked("the Docker daemon made no volume"):
            self._client.create_volume(self.run, labels=self._labels)

    def container(
        self,
        host: str,
        image: str,
        arguments: tuple[str, ...],
        options: Container,
        variables: Mapping[str, str],
        binds: Sequence[Bind],
    ) -> str:
        """Make a host's container, which is not started; its id."""
        client = self._client
        config = client.create_host_config(
            mounts=self._mounts(binds),
            network_mode=self.run,
            shm_size=_SHARED_MEMORY,
            mem_limit=options.memory,
            # No swap besides.
            memswap_limit=options.memory,
            nano_cpus=options.nano_cpus,
            device_requests=_devices(options),
        )
        with signals.interruptible(False), _not_seen(binds), asked("the Docker daemon made no container"):
            made = client.create_container(
                image,
                ["train", *arguments],
                name=f"{self.run}-{host}",
                hostname=host,
                environment=dict(variables),
                labels=self._labels,
                host_config=config,
                networking_config=client.create_networking_config(
                    {self.run: client.create_endpoint_config(aliases=[host])}
                ),
            )
        return str(made["Id"])

    def _mounts(self, binds: Sequence[Bind]) -> list[Any]:
        from docker.types import Mount

        model = Paths(Path(contract.BASE_DIR)).model
        return [
            Mount(str(model), self.run, no_copy=True),
            *(Mount(str(bind.target), os.path.realpath(bind.source), type="bind", read_only=True) for bind in binds),
        ]

    def put(self, container: str, tar: IO[bytes]) -> None:
        """Unpack a tar at the container's root."""
        tar.seek(0)
        with asked("the job's files cannot be put into the container"):
            self._client.put_archive(container, "/", tar)

    def get(self, container: str, path: Path) -> Iterator[bytes]:
        """A directory of the container: a tar of its content, as it comes. Raises Missing."""
        with asked(f"{path} cannot be copied out of the container"):
            pieces, _ = self._client.get_archive(container, f"{path}/.")
            yield from pieces

    def holds(self, container: str, path: Path) -> bool:
        try:
            with asked(str(path)):
                pieces, _ = self._client.get_archive(container, str(path))
        except Missing:
            return False
        pieces.close()
        return True

    def output(self, container: str) -> Iterator[tuple[bool, bytes]]:
        """What a container that is not yet started will write: whether to standard output, and a piece of it.

        Not docker-py's own reader: that waits on the socket of a TLS connection for what is decrypted already.
        """
        with asked("the Docker daemon does not pass on what the container writes"):
            source = self._client.attach_socket(container, {"stdout": 1, "stderr": 1, "stream": 1})
        return _frames(source.makefile("rb") if hasattr(source, "makefile") else io.BufferedReader(source, _PIECE))

    def start(self, container: str, options: Container) -> None:
        try:
            with asked("the container does not start"):
                self._client.start(container)
        except DockerError as error:
            if 'exec: "train"' in str(error):
                raise DockerError(
                    f"--image {options.image!r} has no program `train`; install tf-toolkit in it"
                ) from error
            if "could not select device driver" in str(error):
                raise DockerError(
                    "--gpus: the Docker daemon has no NVIDIA runtime; install NVIDIA's container toolkit on its machine"
                ) from error
            raise

    def wait(self, container: str) -> int:
        """Wait for the end of a container that was started; its exit status."""
        with asked("the Docker daemon does not tell how the job ends"):
            return int(self._client.wait(container)["StatusCode"])

    def kill(self, container: str, number: int) -> None:
        """Send a signal, if the container runs."""
        from docker.errors import APIError

        try:
            with asked(f"signal {number} does not reach the container"):
                self._client.kill(container, number)
        except DockerError as error:
            if not isinstance(error, Missing) and (
                not isinstance(error.__cause__, APIError) or error.__cause__.status_code != _NOT_RUNNING
            ):
                raise

    def killed_for_memory(self, container: str) -> bool:
        with contextlib.suppress(Missing), asked("the container's state"):
            return bool(self._client.inspect_container(container)["State"].get("OOMKilled"))
        return False

    def keep(self) -> None:
        """Have all that was made outlive the run. Says where it is, and how it is removed."""
        self._kept = True
        copy = f"docker cp {self.run}-HOST:{contract.BASE_DIR}/model ."
        remove = f"docker rm $(docker ps --all --quiet --filter label={LABEL}={self.run})"
        say(
            f"the job has ended, and its results could not be copied: once they can, `{copy}` copies them; then "
            f"`{remove}` and `docker volume rm {self.run}; docker network rm {self.run}` remove what is left"
        )

    def remove_all(self) -> None:
        """Remove what bears the run's label, unless it is to be kept. Says what cannot be removed."""
        if self._kept:
            return
        chosen = {"label": f"{LABEL}={self.run}"}
        client = self._client
        try:
            with asked("cannot be listed"):
                for found in client.containers(all=True, filters=chosen):
                    with _removing("container", found["Id"]):
                        client.remove_container(found["Id"], v=True, force=True)
                for found in client.volumes(filters=chosen)["Volumes"] or ():
                    with _removing("volume", found["Name"]):
                        client.remove_volume(found["Name"])
                for found in client.networks(filters=chosen):
                    with _removing("network", found["Id"]):
                        client.remove_network(found["Id"])
        except DockerError as error:
            say(f"what bears the label {LABEL}={self.run} may be left on the Docker daemon: {error}")

    def close(self) -> None:
        self._client.close()


def _devices(options: Container) -> list[Any] | None:
    from docker.types import DeviceRequest

    return None if options.gpus is None else [DeviceRequest(count=options.gpus, capabilities=[["gpu"]])]


@contextlib.contextmanager
def _not_seen(binds: Sequence[Bind]) -> Iterator[None]:
    """Within, a folder that is not where the daemon is gives an error that names what lies in it."""
    try:
        yield
    except DockerError as error:
        for bind in binds:
            if f"bind source path does not exist: {os.path.realpath(bind.source)}" in str(error):
                raise DockerError(
                    f"{bind.what}: {str(bind.source)!r} is on this machine, and the Docker daemon on another, or in a "
                    "container; have it there under the same path"
                ) from error
        raise


@contextlib.contextmanager
def _removing(kind: str, name: str) -> Iterator[None]:
    """Within, a failure to remove is said, and does not keep from removing the rest."""
    try:
        with asked(f"{kind} {name} is left behind"):
            yield
    except Missing:
        pass
    except DockerError as error:
        say(" ".join(str(error).split()))


def _frames(stream: IO[bytes]) -> Iterator[tuple[bool, bytes]]:
    """Two streams in one: https://docs.docker.com/engine/api/v1.41/#tag/Container/operation/ContainerAttach."""
    with contextlib.suppress(OSError):
        while len(header := stream.read(_HEADER_BYTES)) == _HEADER_BYTES:
            yield header[0] == _STDOUT, stream.read(int.from_bytes(header[4:], "big"))
