"""Every setting of the program ``serve``, read from the environment once.

Names are the platform's, those of the serving images before this one, and of the SageMaker inference toolkits. An empty
value is none. A value that cannot be obeyed ends the start with one line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tf_toolkit.config import read_log_level
from tf_toolkit.contract import Paths
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.hardware import cpu_count
from tf_toolkit.serving import model_server_settings
from tf_toolkit.serving.media_types import JSON
from tf_toolkit.serving.model_server_settings import MULTI_MODEL, ModelServer

TIMEOUT = "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS"
MAX_REQUEST_SIZE = "SAGEMAKER_MAX_REQUEST_SIZE"
DEFAULT_MODEL = "SAGEMAKER_TFS_DEFAULT_MODEL_NAME"
LOAD_TIME = "SAGEMAKER_TFS_WAIT_TIME_SECONDS"
SAFE_PORT_RANGE = "SAGEMAKER_SAFE_PORT_RANGE"
REST_PORT = 8501
_GRPC_PORT = 9000

# What else the platform's callers wait: 60 s for an endpoint, and by default 600 s for a batch transform.
_TIMEOUT_SECONDS = 60
_BATCH_TIMEOUT_SECONDS = 600
# The largest body that the platform sends, of an asynchronous invocation.
_MAX_REQUEST_BYTES = 1 << 30
# What the platform sends in a batch transform where nothing is asked for, and all that it has in flight at once.
_MAX_PAYLOAD_MB = 6
_PAYLOADS_MB = 100
_LARGEST = 1_000_000_000
# As a rule handlers wait: for the model, or for another service.
_HANDLER_THREADS, _MOST_HANDLER_THREADS = 16, 1000
# Obeyed by servers of another build: of processes in front of others, and of a retired service.
_NO_EFFECT = (
    "SAGEMAKER_GUNICORN_WORKER_CLASS",
    "SAGEMAKER_INFERENCE_ACCELERATOR_PRESENT",
    "SAGEMAKER_INFERENCE_ACCELERATOR_TYPE",
    "SAGEMAKER_TFS_NGINX_LOGLEVEL",
)


class Batching(NamedTuple):
    """Of requests to one model, in TensorFlow Serving's words."""

    # None where nothing is said: then only what waits anyway runs together, and only where that changes nothing.
    enabled: bool | None
    max_batch_size: int
    timeout_micros: int
    threads: int
    max_enqueued_batches: int


class Settings(NamedTuple):
    model_dir: Path
    # The same paths are answered on both; 0 is any free port.
    port: int
    rest_port: int
    # Where handlers ask for it, and nobody else has it; 0 is any free port.
    grpc_port: int
    default_model: str | None
    multi_model: bool
    log_level: int
    # Seconds until a request is given up.
    timeout: int
    # Seconds until loading is given up; None: never.
    load_time: int | None
    max_request_bytes: int
    batching: Batching
    # Threads of TensorFlow; 0 where nothing is said.
    inter_op_threads: int
    intra_op_threads: int
    # How many requests handlers may be at work on at once.
    handler_threads: int
    # Accept of an invocation that has none.
    default_accept: str
    # Of the platform's batch transform.
    max_payload_mb: int
    max_concurrent_transforms: int
    # None where models run in this process.
    model_server: ModelServer | None
    # What whoever started the program should know.
    warnings: tuple[str, ...]


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings; raises JobDescriptionError."""
    variables = _Variables(environ)
    log_level, warnings = read_log_level(
        environ.get("SM_LOG_LEVEL"),
        environ.get("SAGEMAKER_CONTAINER_LOG_LEVEL"),
        environ.get("SAGEMAKER_GUNICORN_LOGLEVEL"),
    )
    multi_model = variables.switch(MULTI_MODEL) or False
    ports = _safe_ports(environ)
    model_server = model_server_settings.read(environ, variables.number, multi_model, ports)
    without = () if model_server else model_server_settings.NAMES
    ignored = [name for name in sorted((*_NO_EFFECT, *without)) if environ.get(name)]
    if ignored:
        warnings = (*warnings, f"set, but without effect in this server: {', '.join(ignored)}")
    default_model = environ.get(DEFAULT_MODEL)
    cpus = cpu_count()
    # The platform writes "true", the SDK's local mode "True"; both leave it out where it is not so.
    batch_transform = bool(environ.get("SAGEMAKER_BATCH"))
    max_payload_mb = variables.number("SAGEMAKER_MAX_PAYLOAD_IN_MB", _MAX_PAYLOAD_MB)
    return Settings(
        model_dir=Paths.of(environ).model,
        port=variables.number("SAGEMAKER_BIND_TO_PORT", 8080, least=1, most=65535),
        rest_port=REST_PORT if ports is None else ports[0] + 1,
        # Those of the range are the other server's, which has to find them free when it starts again.
        grpc_port=0 if model_server else _GRPC_PORT if ports is None else ports[0],
        # Written by an SDK that has no name to give.
        default_model=None if default_model in (None, "", "None") else default_model,
        multi_model=multi_model,
        log_level=log_level,
        timeout=_timeout(variables, batch_transform),
        load_time=variables.number(LOAD_TIME, 0) or None,
        max_request_bytes=variables.number(MAX_REQUEST_SIZE, _MAX_REQUEST_BYTES, least=1, most=1 << 40),
        batching=_batching(variables, cpus, batch_transform),
        inter_op_threads=variables.number("SAGEMAKER_TFS_INTER_OP_PARALLELISM", 0),
        intra_op_threads=variables.number("SAGEMAKER_TFS_INTRA_OP_PARALLELISM", 0),
        handler_threads=_handler_threads(variables, cpus),
        default_accept=environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT") or JSON,
        max_payload_mb=max_payload_mb,
        max_concurrent_transforms=variables.number(
            "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS", max(1, min(cpus, _PAYLOADS_MB // max(1, max_payload_mb))), least=1
        ),
        model_server=model_server,
        warnings=warnings,
    )


class _Variables:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def number(self, name: str, default: int, least: int = 0, most: int = _LARGEST) -> int:
        text = self._environ.get(name, "").strip()
        if not text:
            return default
        if not re.fullmatch(r"[0-9]{1,19}", text) or not least <= int(text) <= most:
            raise JobDescriptionError(f"{name} is {text!r}; expected a whole number from {least} to {most}")
        return int(text)

    def switch(self, name: str) -> bool | None:
        """None where it is not set."""
        text = self._environ.get(name, "").strip().lower()
        if text not in ("", "true", "false"):
            raise JobDescriptionError(f"{name} is {self._environ[name]!r}; expected true or false")
        return text == "true" if text else None


def _safe_ports(environ: Mapping[str, str]) -> tuple[int, int] | None:
    text = environ.get(SAFE_PORT_RANGE, "").strip()
    if not text:
        return None
    found = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", text)
    if found is None or not 0 < int(found[1]) < int(found[2]) < 65536:
        raise JobDescriptionError(f"{SAFE_PORT_RANGE} is {text!r}; expected two ports, such as 9000-9999")
    return int(found[1]), int(found[2])


def _handler_threads(variables: _Variables, cpus: int) -> int:
    """The older servers had so many processes of so many threads."""
    workers, processes, threads = (
        variables.number(name, 0, least=1, most=_MOST_HANDLER_THREADS)
        for name in ("SAGEMAKER_MODEL_SERVER_WORKERS", "SAGEMAKER_GUNICORN_WORKERS", "SAGEMAKER_GUNICORN_THREADS")
    )
    if workers or not (processes or threads):
        return workers or max(_HANDLER_THREADS, cpus)
    return min((processes or 1) * (threads or 1), _MOST_HANDLER_THREADS)


def _timeout(variables: _Variables, batch_transform: bool) -> int:
    """One for all: of the older servers, which had one for each process on the way, the longest counts."""
    for name in (TIMEOUT, "SAGEMAKER_MODEL_SERVER_TIMEOUT"):
        seconds = variables.number(name, 0)
        if seconds:
            return seconds
    others = ("SAGEMAKER_GUNICORN_TIMEOUT_SECONDS", "SAGEMAKER_NGINX_PROXY_READ_TIMEOUT_SECONDS")
    longest = max(variables.number(name, 0) for name in others)
    return longest or (_BATCH_TIMEOUT_SECONDS if batch_transform else _TIMEOUT_SECONDS)


def _batching(variables: _Variables, cpus: int, batch_transform: bool) -> Batching:
    return Batching(
        enabled=variables.switch("SAGEMAKER_TFS_ENABLE_BATCHING"),
        max_batch_size=variables.number("SAGEMAKER_TFS_MAX_BATCH_SIZE", 8, least=1),
        timeout_micros=variables.number("SAGEMAKER_TFS_BATCH_TIMEOUT_MICROS", 1000),
        threads=variables.number("SAGEMAKER_TFS_NUM_BATCH_THREADS", cpus, least=1),
        max_enqueued_batches=variables.number(
            "SAGEMAKER_TFS_MAX_ENQUEUED_BATCHES", 100_000_000 if batch_transform else cpus, least=1
        ),
    )
