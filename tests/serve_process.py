"""Real `serve` processes on free ports, and HTTP to them, also of a kind that no library sends."""

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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from conftest import DEADLINE, wait_until
from hosts import free_ports

JSON = {"Content-Type": "application/json"}


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an answer that is a fault, which must be of its form."""
        assert self.headers["content-type"] == "application/json", self
        (message,) = self.json.values()
        assert self.json == {"error": message}
        return str(message)


class Server:
    """One process over a tree like /opt/ml, whose models are links."""

    def __init__(self, root: Path, models: Mapping[str, Path], environ: Mapping[str, str]) -> None:
        self.root = root
        (root / "model").mkdir(parents=True)
        for name, path in models.items():
            (root / "model" / name).symlink_to(path)
        self.port = free_ports(2)
        self.rest_port = self.port + 1
        inherited = {k: v for k, v in os.environ.items() if not re.match(r"SM_|SAGEMAKER|PYTHON", k)}
        self.stdout = root / "stdout"
        self.stderr = root / "stderr"
        with self.stdout.open("wb") as stdout, self.stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tf_toolkit.serving.serve"],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={
                    **inherited,
                    "SAGEMAKER_BASE_DIR": str(root),
                    "SAGEMAKER_BIND_TO_PORT": str(self.port),
                    "SAGEMAKER_SAFE_PORT_RANGE": f"{self.port}-{self.rest_port}",
                    "TF_CPP_MIN_LOG_LEVEL": "2",
                    **environ,
                },
            )

    @property
    def log(self) -> str:
        return self.stderr.read_text()

    @property
    def access_log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.read_bytes().splitlines()]

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=DEADLINE)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def invoke(self, body: bytes | str, **headers: str) -> Answer:
        """Header names have underscores here."""
        return self.ask("POST", "/invocations", body, {**JSON, **{k.replace("_", "-"): v for k, v in headers.items()}})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)

    def send(self, data: bytes) -> Answer:
        """Bytes as they are, and the one answer to them."""
        with contextlib.closing(self.connect()) as connection:
            connection.sendall(data)
            return answer(connection)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return self.get("/ping").status == 200
        except OSError:
            return False

    def wait_until_ready(self) -> None:
        wait_until(self.is_ready, "the server is ready")

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def answer(connection: socket.socket) -> Answer:
    """The next answer that comes on a connection."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    found = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, found, response.read())


@contextlib.contextmanager
def serving(root: Path, models: Mapping[str, Path], ready: bool = True, **environ: str) -> Iterator[Server]:
    """A process that ends with the block; at its start it is ready, unless that is not asked for."""
    server = Server(root, models, environ)
    try:
        if ready:
            server.wait_until_ready()
        yield server
    finally:
        server.close()
