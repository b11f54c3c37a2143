"""Servers that benchmarks/serving compares: ours, and the incumbent's front before a model server that costs nothing.

The incumbent's front is rendered and started as its serve.py does: nginx with njs where there is no inference.py, and
otherwise nginx before gunicorn with falcon. Of its own Python only the handler that passes requests on is used.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import _common

TENSORFLOW = "tensorflow-cpu==2.21.0"
# falcon is the incumbent's; those beside it are newer than the incumbent's, and faster.
GUNICORN = (
    *("falcon==2.0.0", "gunicorn==27.0.1", "gevent==26.9.0", "requests==2.34.2", "grpcio==1.85.3"),
    *("setuptools<80", "packaging"),
)
MODEL_NAME = "half_plus_two"
# As TensorFlow Serving writes it.
ANSWER = '{\\n    "predictions": [2.5, 3.0, 4.5\\n    ]\\n}'
_TICK = os.sysconf("SC_CLK_TCK")
_READY_SECONDS = 120.0
_STUB = """
daemon off;
worker_processes 1;
pid {folder}/stub.pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  default_type application/json;
  client_max_body_size 0;
  client_body_buffer_size 100m;
  server {{
    {listen}
    location / {{ return 200 '{answer}'; }}
  }}
}}
"""


class Request(NamedTuple):
    """What is posted to /invocations."""

    body: bytes
    content_type: str
    model: str = MODEL_NAME

    @property
    def headers(self) -> Mapping[str, str]:
        if self.model == MODEL_NAME:
            return {"Content-Type": self.content_type}
        return {"Content-Type": self.content_type, "X-Amzn-SageMaker-Custom-Attributes": f"tfs-model-name={self.model}"}


class Server:
    """Processes that answer on a port together."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.processes: list[subprocess.Popen[bytes]] = []

    def pids(self) -> list[int]:
        """All processes, children included."""
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parents.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
        found = []
        waiting = [process.pid for process in self.processes]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            waiting += parents.get(pid, [])
        return found

    def cpu(self) -> float:
        """Seconds of all processes so far."""
        return sum(sum(map(int, _stat(pid)[11:13])) for pid in self.pids()) / _TICK

    def forget_peak(self) -> None:
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def memory(self, field: str) -> int:
        """Bytes of the process that has the most: VmRSS now, VmHWM at the peak."""
        return max(_status(pid, field) for pid in self.pids())

    def ask(self, request: Request, timeout: float = _READY_SECONDS) -> int:
        """The status of one request, 0 where there was no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", "/invocations", request.body, dict(request.headers))
            response = connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def wait_until(self, method: str, path: str, request: Request | None = None) -> float:
        """The time, on the monotonic clock, of the first answer that is 200."""
        ends = time.monotonic() + _READY_SECONDS
        while time.monotonic() < ends and all(process.poll() is None for process in self.processes):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_READY_SECONDS)
            with contextlib.suppress(OSError), contextlib.closing(connection):
                connection.request(method, path, request and request.body, dict(request.headers) if request else {})
                if connection.getresponse().status == 200:
                    return time.monotonic()
            time.sleep(0.005)
        raise SystemExit(f"port {self.port}: no 200 from {path} within {_READY_SECONDS:g} s")


def _stat(pid: int) -> list[str]:
    """From the state on: the second is the parent, the 12th and 13th are ticks in user's mode and in the kernel."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _status(pid: int, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Bench:
    """The programs and files that all servers need. Without ``incumbent`` there is ours alone."""

    def __init__(self, folder: Path, incumbent: Path | None) -> None:
        self.folder = folder
        # Workers of nginx belong to another user.
        folder.chmod(0o755)
        self._count = 0
        for program in ("wrk", "nginx") if incumbent else ("wrk",):
            if shutil.which(program) is None:
                raise SystemExit(f"{program} is missing: apt-get install wrk nginx-light libnginx-mod-http-js")
        self._sources = incumbent and incumbent / "docker" / "build_artifacts" / "sagemaker"
        if self._sources and not (self._sources / "nginx.conf.template").exists():
            raise SystemExit(f"{incumbent} is no checkout of the incumbent's container: see benchmarks/README.md")
        self.venv = _common.environment("serving", [(TENSORFLOW,)])
        # Not a step of the environment: with each change of ours, TensorFlow would be installed anew.
        _common.pip(self.venv, "uninstall", "--quiet", "--yes", "tf-toolkit", "tf-toolkit-session")
        session = _common.wheel(_common.ROOT / "session")
        _common.pip(self.venv, "install", "--quiet", f"{_common.wheel()}[serving]", str(session))
        self.python = self.venv / "bin" / "python"
        if subprocess.run([self.python, "-c", "import tf_toolkit_session"], check=False).returncode:
            raise SystemExit("session/ was not compiled: cc and Python's headers must be there")
        self.models = folder / "ml" / "model"
        _common.say("making the models")
        writer = Path(__file__).with_name("serving_models.py")
        quiet = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        subprocess.run([self.python, writer, self.models], check=True, env=quiet, stdout=subprocess.DEVNULL)
        self._gunicorn = _common.environment("serving-incumbent", [GUNICORN]) if incumbent else None

    def new_folder(self) -> Path:
        self._count += 1
        folder = self.folder / f"server-{self._count}"
        folder.mkdir()
        return folder

    @contextlib.contextmanager
    def ours(self, **environ: str) -> Iterator[Server]:
        """Ready to answer for all models."""
        with self.ours_starting(**environ) as server:
            server.wait_until("GET", "/ping")
            yield server

    @contextlib.contextmanager
    def ours_starting(self, **environ: str) -> Iterator[Server]:
        server = Server(free_port())
        folder = self.new_folder()
        variables = {
            "PATH": os.environ["PATH"],
            "SAGEMAKER_BASE_DIR": str(self.models.parent),
            "SAGEMAKER_BIND_TO_PORT": str(server.port),
            # The REST API listens on the second.
            "SAGEMAKER_SAFE_PORT_RANGE": f"{server.port}-{server.port + 1}",
            **environ,
        }
        with _process([str(self.venv / "bin" / "serve")], folder, server, variables):
            yield server

    @contextlib.contextmanager
    def njs(self, limit: int | None = None) -> Iterator[Server]:
        """nginx with njs alone; ``limit`` is of the bytes of address space of each process."""
        with self._stub() as upstream:
            server = Server(free_port())
            folder = self._front(server.port, upstream, "js_content tensorflowServing.{}")
            with _process(["nginx", "-c", str(folder / "nginx.conf")], folder, server, None, limit):
                _wait_for_port(server.port)
                yield server

    @contextlib.contextmanager
    def python_path(self) -> Iterator[Server]:
        """nginx before gunicorn with falcon."""
        assert self._gunicorn is not None
        with self._stub() as upstream:
            server = Server(free_port())
            folder = self._front(server.port, upstream, "proxy_pass http://gunicorn_upstream/{}")
            options = f"-b unix:{folder}/gunicorn.sock -k gevent --chdir {folder} --workers 1 --threads 1"
            ports = f"-e TFS_GRPC_PORTS=9000 -e TFS_REST_PORTS={upstream} --log-level info --timeout 30"
            environ = {**os.environ, "TFS_DEFAULT_MODEL_NAME": MODEL_NAME, "OMP_NUM_THREADS": "1"}
            gunicorn = [
                str(self._gunicorn / "bin" / "gunicorn"),
                *options.split(),
                *ports.split(),
                "python_service:app",
            ]
            nginx = ["nginx", "-c", str(folder / "nginx.conf")]
            with _process(gunicorn, folder, server, environ), _process(nginx, folder, server, None):
                server.wait_until("GET", "/ping")
                yield server

    def _front(self, port: int, upstream: int, forward: str) -> Path:
        """A folder with the incumbent's files and what its serve.py makes of its template."""
        assert self._sources is not None
        folder = self.new_folder()
        shutil.copytree(self._sources, folder, dirs_exist_ok=True)
        values = {
            "TFS_VERSION": "2.20",
            "TFS_UPSTREAM": f"server localhost:{upstream}",
            "TFS_DEFAULT_MODEL_NAME": MODEL_NAME,
            "NGINX_HTTP_PORT": str(port),
            "NGINX_LOG_LEVEL": "error",
            "FORWARD_PING_REQUESTS": forward.format("ping"),
            "FORWARD_INVOCATION_REQUESTS": forward.format("invocations"),
            "PROXY_READ_TIMEOUT": "60",
        }
        template = (folder / "nginx.conf.template").read_text()
        config = re.sub(r"%(\w+)%", lambda name: values[name[1]], template)
        # Theirs are for a container of its own.
        config = config.replace("/tmp/nginx.pid", f"{folder}/nginx.pid")
        (folder / "nginx.conf").write_text(config.replace("/tmp/gunicorn.sock", f"{folder}/gunicorn.sock"))
        return folder

    @contextlib.contextmanager
    def _stub(self) -> Iterator[int]:
        """The port of what stands for the model server; its CPU is nobody's."""
        port, folder = free_port(), self.new_folder()
        # Whatever localhost is, so that no connection is tried in vain.
        found = socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)
        addresses = {f"[{each[4][0]}]" if each[0] == socket.AF_INET6 else str(each[4][0]) for each in found}
        listen = " ".join(f"listen {address}:{port};" for address in sorted(addresses))
        (folder / "nginx.conf").write_text(_STUB.format(folder=folder, listen=listen, answer=ANSWER))
        nginx = ["nginx", "-c", str(folder / "nginx.conf")]
        with _process(nginx, folder, Server(port), None):
            _wait_for_port(port)
            yield port


@contextlib.contextmanager
def _process(
    command: Sequence[str], folder: Path, server: Server, environ: Mapping[str, str] | None, limit: int | None = None
) -> Iterator[None]:
    """A process of the server, which ends with the block."""

    def bound() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    with (folder / "stdout").open("ab") as stdout, (folder / "stderr").open("ab") as stderr:
        process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, preexec_fn=bound
        )
    server.processes.append(process)
    try:
        yield
    finally:
        if process.poll() is not None:
            errors = (folder / "stderr").read_text(errors="replace")
            _common.say(f"{command[0]} ended with status {process.returncode}:\n{errors[-2000:]}")
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_port(port: int) -> None:
    ends = time.monotonic() + _READY_SECONDS
    while time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.01)
    raise SystemExit(f"nobody listens on port {port}")
