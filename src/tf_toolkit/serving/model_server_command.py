"""How tensorflow_model_server is started: its arguments, the files that they name, its environment, its ports.

https://github.com/tensorflow/serving/blob/master/tensorflow_serving/model_servers/main.cc. The files are protobuf in
text format, model_server_config.proto and session_bundle_config.proto.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.hardware import detect_hardware
from tf_toolkit.serving.model_server_settings import PROGRAM, ModelServer
from tf_toolkit.serving.models import FoundModel
from tf_toolkit.serving.settings import SAFE_PORT_RANGE, Batching, Settings

_DEVICES = "CUDA_VISIBLE_DEVICES"


class Ports(NamedTuple):
    """Of one process, on all addresses: it has no flag for others."""

    grpc: int
    rest: int


class Start(NamedTuple):
    """What is new for each start of a process."""

    argv: list[str]
    environ: Mapping[str, str]
    ports: Ports


class Starts:
    """How to start each of the processes, and the files that these read."""

    def __init__(self, settings: Settings, model_server: ModelServer, models: Iterable[FoundModel]) -> None:
        """Raises JobDescriptionError."""
        self._settings = settings
        self._model_server = model_server
        self._ports = _safe_ports(settings, model_server)
        self._gpus = detect_hardware("", os.environ).gpus if model_server.instances > 1 else 0
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="tf-toolkit-model-server-"))
            self._models = self._folder / "models.config"
            self._models.write_text(_model_config(models))
            self._batching = self._folder / "batching.config"
            self._batching.write_text(_batching_parameters(settings.batching))
        except OSError as error:
            raise JobDescriptionError(f"{PROGRAM} needs files that cannot be written: {error}") from error

    def of(self, number: int) -> Start:
        """For the process of that number."""
        ports = _free_ports() if self._ports is None else self._ports[number]
        return Start(self._arguments(ports), self._environment(number), ports)

    def close(self) -> None:
        """Take the files away."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _arguments(self, ports: Ports) -> list[str]:
        settings, model_server = self._settings, self._model_server
        command = [
            model_server.program,
            f"--port={ports.grpc}",
            f"--rest_api_port={ports.rest}",
            f"--model_config_file={self._models}",
            # What fails to load once is told at once.
            "--max_num_load_retries=0",
            # There is one time for a request, and it is not 30 s.
            f"--rest_api_timeout_in_ms={settings.timeout * 1000}",
        ]
        if settings.batching.enabled:
            command += ["--enable_batching=true", f"--batching_parameters_file={self._batching}"]
        for name, threads in (("intra", settings.intra_op_threads), ("inter", settings.inter_op_threads)):
            if threads:
                command.append(f"--tensorflow_{name}_op_parallelism={threads}")
        if self._gpus:
            fraction = round((1 - model_server.gpu_memory_margin) / model_server.instances, 4)
            command.append(f"--per_process_gpu_memory_fraction={fraction}")
        return [*command, *model_server.extra_flags]

    def _environment(self, number: int) -> dict[str, str]:
        """Of several processes, each has one GPU."""
        # TensorFlow's own threads do the work; OpenMP's beside them would take the CPUs twice.
        variables = {"OMP_NUM_THREADS": "1", **os.environ}
        if self._gpus > 1:
            given = os.environ.get(_DEVICES)
            devices = [str(gpu) for gpu in range(self._gpus)] if given is None else given.split(",")
            variables[_DEVICES] = devices[number % len(devices)]
        return variables


def _model_config(models: Iterable[FoundModel]) -> str:
    """Every version that was found, and no other that comes later."""
    return "".join(("model_config_list {\n", *map(_model, models), "}\n"))


def _model(model: FoundModel) -> str:
    versions = " ".join(f"versions: {version}" for version in model.versions)
    return (
        "  config {\n"
        f"    name: {_quoted(model.name)}\n"
        f"    base_path: {_quoted(str(model.base_path))}\n"
        '    model_platform: "tensorflow"\n'
        f"    model_version_policy {{ specific {{ {versions} }} }}\n"
        "  }\n"
    )


def _quoted(text: str) -> str:
    """A string of the text format, byte for byte."""
    raw = text.encode(errors="surrogateescape")
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in raw)
    return f'"{"".join(plain)}"'


def _batching_parameters(batching: Batching) -> str:
    return (
        f"max_batch_size {{ value: {batching.max_batch_size} }}\n"
        f"batch_timeout_micros {{ value: {batching.timeout_micros} }}\n"
        f"num_batch_threads {{ value: {batching.threads} }}\n"
        f"max_enqueued_batches {{ value: {batching.max_enqueued_batches} }}\n"
    )


def _safe_ports(settings: Settings, model_server: ModelServer) -> list[Ports] | None:
    """For each process, ports out of the range that may be used; None where any may. Raises JobDescriptionError."""
    if model_server.ports is None:
        return None
    first, last = model_server.ports
    own = {settings.port, settings.rest_port}
    ports = [port for port in range(first, last + 1) if port not in own]
    if len(ports) < 2 * model_server.instances:
        raise JobDescriptionError(
            f"{SAFE_PORT_RANGE} is {first}-{last}: beside serve's own ports it has {len(ports)}, and "
            f"{2 * model_server.instances} are needed, two for each {PROGRAM}; give a larger range"
        )
    return [Ports(*ports[2 * number : 2 * number + 2]) for number in range(model_server.instances)]


def _free_ports() -> Ports:
    """Any that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in Ports._fields]
        return Ports(*(each.getsockname()[1] for each in sockets))


def taken(ports: Ports) -> str:
    """Why they cannot be used; nothing where they can. It would go on without its REST API, and say so in its log."""
    for port in ports:
        try:
            socket.create_server(("", port)).close()
        except OSError as error:
            return f"port {port} cannot be had: {os.strerror(error.errno or 0)}"
    return ""
