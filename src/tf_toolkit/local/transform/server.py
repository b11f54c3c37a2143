"""The server of a transform: ``serve`` as a process of its own, for this transform alone.

Arguments: the folder of models, and a free port of 127.0.0.1. Environment: ours, and what the platform sets in a batch
transform. What it prints comes to our standard error. TERM ends it, and KILL where that takes long; it does not outlive
us. When it ends by itself, the last error that it told of is the reason.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from tf_toolkit.errors import ToolkitError
from tf_toolkit.local.transform.options import SINGLE_RECORD, Options
from tf_toolkit.process import die_with_parent, shell_status, signal_name
from tf_toolkit.serving.model_server_settings import BACKEND, PROGRAM

HOST = "127.0.0.1"
_POLL_SECONDS = 0.02
# From TERM to KILL. Nothing that a request would still be answered with is waited for.
_GRACE_SECONDS = 2.0
# For its last lines to come through the pipe, and for a connection that broke to be its end.
_END_SECONDS = 5.0
_LOG_LEVELS = ("SM_LOG_LEVEL", "SAGEMAKER_CONTAINER_LOG_LEVEL", "SAGEMAKER_GUNICORN_LOGLEVEL")
_WARNINGS = "30"
_ERROR = re.compile(r"(?:.* tf-toolkit ERROR +|tf-toolkit: error: )(.*)")
# Left over from elsewhere, these would have it serve something else.
_STALE = (
    "SAGEMAKER_BASE_DIR",
    "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS",
    "SAGEMAKER_MAX_PAYLOAD_IN_MB",
    "SAGEMAKER_MULTI_MODEL",
    "SAGEMAKER_SUBMIT_DIRECTORY",
)


class ServerError(ToolkitError):
    """The server does not answer; the exit status is its own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Server:
    """One that has been started. ``port`` is where it listens."""

    def __init__(self, options: Options, environ: Mapping[str, str]) -> None:
        # Nobody else is given a port that is bound, and two may bind it as long as none of them listens.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind((HOST, 0))
        self.port: int = self._reserved.getsockname()[1]
        self._ready = False
        self._reason = ""
        command = [sys.executable, "-m", "tf_toolkit.local", "serve"]
        self._process = subprocess.Popen(
            [*command, "--model-dir", str(options.model_dir), "--port", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(options, environ, self.port),
            # Python looks for modules in the working directory first, and here are none.
            cwd="/",
            # A Control-C is for us, who end it.
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> None:
        """Returns when all models answer. Raises ServerError."""
        while self._get("/ping")[0] != http.client.OK:
            time.sleep(_POLL_SECONDS)
        self._ready = True

    def execution_parameters(self) -> tuple[int, int]:
        """How many requests it wants at once, and of how many megabytes at most. Raises ServerError."""
        status, body = self._get("/execution-parameters")
        if status != http.client.OK:
            raise self.ended(ConnectionError(f"/execution-parameters, with status {status}"))
        found = json.loads(body)
        return found["MaxConcurrentTransforms"], found["MaxPayloadInMB"]

    def ended(self, cause: Exception) -> ServerError:
        """Why it does not answer, which showed as ``cause``."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        if self._process.returncode is None:
            return ServerError(f"the server ended a connection: {str(cause) or type(cause).__name__}", 1)
        self._reader.join(_END_SECONDS)
        status, number = shell_status(_wait_status(self._process.returncode))
        if number:
            # Errors that it told of before are no reason of this.
            hint = ", perhaps for want of memory" if number == signal.SIGKILL else ""
            return ServerError(f"the server was killed by {signal_name(number)}{hint}", status)
        return ServerError(f"the server ended with status {status}{self._reason and ': '}{self._reason}", status or 1)

    def close(self) -> None:
        """End it, if it has not ended."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_SECONDS)
        # Also what a handler has started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(_END_SECONDS)
        self._reserved.close()

    def _get(self, path: str) -> tuple[int, bytes]:
        """An answer; status 0 where it does not listen yet. Raises ServerError where it has ended."""
        if self._process.poll() is not None:
            raise self.ended(ConnectionError())
        connection = http.client.HTTPConnection(HOST, self.port)
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException):
                return 0, b""

    def _read(self, output: IO[bytes]) -> None:
        """In a thread: pass on what it prints."""
        for line in output:
            text = line.decode(errors="replace").rstrip("\r\n")
            error = _ERROR.fullmatch(text)
            self._reason = error[1] if error else self._reason
            # Before it is ready an error is its end, which is told of in its time.
            if (error is None or self._ready) and sys.stderr is not None:
                with contextlib.suppress(OSError):
                    sys.stderr.write(f"{text}\n")
                    sys.stderr.flush()


@contextlib.contextmanager
def running(options: Options, environ: Mapping[str, str]) -> Iterator[Server]:
    """A server that ends with the block."""
    server = Server(options, environ)
    try:
        yield server
    finally:
        server.close()


def _environment(options: Options, environ: Mapping[str, str], port: int) -> dict[str, str]:
    variables = {name: value for name, value in environ.items() if name not in _STALE}
    variables["SAGEMAKER_BATCH"] = "true"
    # The platform sets these only where somebody has given them.
    if options.max_payload_mb is not None:
        variables["SAGEMAKER_MAX_PAYLOAD_IN_MB"] = str(options.max_payload_mb)
    if options.max_concurrent is not None:
        variables["SAGEMAKER_MAX_CONCURRENT_TRANSFORMS"] = str(options.max_concurrent)
    if options.strategy is not None:
        strategy = "SINGLE_RECORD" if options.strategy == SINGLE_RECORD else "MULTI_RECORD"
        variables["SAGEMAKER_BATCH_STRATEGY"] = strategy
    # With tensorflow_model_server the ports of the range are that one's, and nobody keeps those next to ours free.
    if variables.get(BACKEND, "").strip() != PROGRAM:
        # The second of the range is for the REST API, which thus takes no port of its own.
        variables["SAGEMAKER_SAFE_PORT_RANGE"] = f"{port - 1}-65535"
    if not any(variables.get(name) for name in _LOG_LEVELS):
        variables["SAGEMAKER_CONTAINER_LOG_LEVEL"] = _WARNINGS
    variables.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if variables.get("PYTHONPATH"):
        paths = variables["PYTHONPATH"].split(os.pathsep)
        variables["PYTHONPATH"] = os.pathsep.join(str(Path(path).absolute()) for path in paths)
    return variables


def _wait_status(returncode: int) -> int:
    """As waitpid has it."""
    return -returncode if returncode < 0 else returncode << 8
