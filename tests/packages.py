"""What the tests of installing share: wheels made on the spot, an index that serves them, a Python to install into."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

SOURCES = Path(__file__).parent.parent / "src"
# Runs one install in the Python under test, and says how it ended.
DRIVER = """
import json, logging, os, sys
from pathlib import Path
from tf_toolkit import errors, requirements, signals

code, package, level = sys.argv[1:]
logging.basicConfig(level=int(level), format="tf-toolkit %(message)s")
variables = {**os.environ, "PYTHONPATH": f"{code}:{os.environ['PYTHONPATH']}"}
variables["SM_TRAINING_ENV"] = "x" * int(os.environ.get("SIZE", "2"))
said = {"error": ""}
try:
    with signals.interruptible():
        requirements.install(Path(code), package == "True", int(level) > logging.INFO, variables, 20.0)
except errors.Stopped as stop:
    said = {"error": "Stopped", "signal": stop.signal_number}
except errors.ToolkitError as error:
    said = {"error": type(error).__name__, "message": str(error), "details": error.details, "code": error.exit_code}
print(json.dumps(said))
"""


def wheel(
    folder: Path,
    name: str,
    version: str,
    requires: tuple[str, ...] = (),
    files: Mapping[str, str] | None = None,
    tag: str = "py3-none-any",
) -> Path:
    """A wheel with one small module, or with ``files``."""
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-{tag}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    contents = {
        **({f"{name.replace('-', '_')}.py": f"version = {version!r}\n"} if files is None else files),
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{stem}.dist-info/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{file},,\n" for file in contents) + f"{stem}.dist-info/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**contents, f"{stem}.dist-info/RECORD": record}.items():
            archive.writestr(file, text)
    return path


def write_package(directory: Path, name: str, backend: str = "", requires: str = "") -> None:
    """A package whose build leaves files beside its sources, as setuptools' does; it needs nothing from an index."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "7.1"\ndependencies = [{requires}]\n'
    )
    (directory / f"{name}.py").write_text("version = '7.1'\n")
    needs = f"Requires-Dist: {requires[1:-1]}\\n" if requires else ""
    (directory / "backend.py").write_text(
        backend
        or f"""
import zipfile
from pathlib import Path

def build_wheel(folder, settings=None, metadata=None):
    Path("build").mkdir()
    Path("build", "litter").write_text("")
    files = {{
        "{name}.py": Path("{name}.py").read_text(),
        "{name}-7.1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: {name}\\nVersion: 7.1\\n{needs}",
        "{name}-7.1.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }}
    files["{name}-7.1.dist-info/RECORD"] = "".join(f"{{file}},,\\n" for file in files) + "{name}-7.1.dist-info/RECORD,,"
    with zipfile.ZipFile(Path(folder) / "{name}-7.1-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
    return "{name}-7.1-py3-none-any.whl"
"""
    )


class Index:
    """A package index on loopback, with a password if ``login`` is given. It notes who asked for what."""

    def __init__(self, folder: Path, login: str | None = None) -> None:
        self.folder = folder
        self.login = login
        self.asked: list[str] = []
        # The command lines of all processes while the index was asked.
        self.command_lines: set[str] = set()
        self.go = threading.Event()
        self.go.set()
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append(self.path)
                index.command_lines.update(command_lines())
                index.go.wait(120)
                status, body = index.answer(self.path, self.headers.get("Authorization"))
                self.send_response(status)
                if status == 401:
                    self.send_header("WWW-Authenticate", 'Basic realm="packages"')
                self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.address}/simple"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        if self.login is not None:
            if authorization is None:
                return 401, b""
            if base64.b64decode(authorization.split()[1]).decode() != self.login:
                return 403, b""
        found = re.fullmatch(r".*/simple/([^/]+)/", path)
        if found:
            names = [file.name for file in self.folder.iterdir() if _normalised(file.name.split("-")[0]) == found[1]]
            links = "".join(f'<a href="{self.address}/files/{name}">{name}</a>\n' for name in names)
            return (200, f"<!DOCTYPE html><html><body>{links}</body></html>".encode()) if names else (404, b"")
        file = self.folder / path.rpartition("/")[2]
        return (200, file.read_bytes()) if path.startswith("/files/") and file.is_file() else (404, b"")

    def close(self) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_text(errors="replace")


class Outcome(NamedTuple):
    """How an install ended, as its user sees it."""

    error: str
    message: str
    details: str
    log: str
    said: dict[str, Any]


class Python:
    """A throwaway virtual environment and a code directory, and installs into the one from the other."""

    def __init__(self, root: Path, tool: str, index: Index, borrowed: tuple[str, ...] = ()) -> None:
        self.root = root
        self.tool = tool
        self.index = index
        self.code = root / "my code"
        self.code.mkdir(parents=True)
        venv.create(root / "venv", with_pip=False, symlinks=True)
        self.executable = root / "venv" / "bin" / "python"
        self.packages = next((root / "venv" / "lib").glob("python*/site-packages"))
        # Making pip anew takes seconds, so it is borrowed; so is what else the launcher needs.
        lent = root / "lent"
        lent.mkdir()
        for name in (*(["pip"] if tool == "pip" else []), *borrowed):
            lend(name, lent)
        (self.packages / "lent.pth").write_text(f"{lent}\n")
        (root / "bin").mkdir()
        if tool == "uv":
            uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
            assert uv, "the tests need uv: pip install -e .[test]"
            (root / "bin" / "uv").symlink_to(uv)
        self.environ = {
            "HOME": str(root / "home"),
            "PATH": str(root / "bin"),
            "PYTHONPATH": str(SOURCES),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": index.url,
            "PIP_RETRIES": "0",
            "UV_NO_CONFIG": "1",
        }

    def requirements(self, *lines: str) -> None:
        (self.code / "requirements.txt").write_text("".join(f"{line}\n" for line in lines))

    def start(self, package: bool = False, level: int = 20, **variables: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(self.executable), "-c", DRIVER, str(self.code), str(package), str(level)],
            env={**self.environ, **variables},
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self, process: subprocess.Popen[bytes]) -> Outcome:
        try:
            stdout, stderr = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            raise
        log = stderr.decode(errors="replace")
        assert process.returncode == 0, log
        said = json.loads(stdout)
        return Outcome(said["error"], said.get("message", ""), said.get("details", ""), log, said)

    def install(self, package: bool = False, level: int = 20, **variables: str) -> Outcome:
        return self.finish(self.start(package, level, **variables))

    def has(self, name: str) -> str | None:
        """The version of an installed distribution."""
        found = list(self.packages.glob(f"{name.replace('-', '_')}-*.dist-info"))
        return found[0].name[len(name) + 1 : -len(".dist-info")] if found else None

    def put(self, path: Path) -> None:
        """Install a wheel, as the image's builder did."""
        with zipfile.ZipFile(path) as archive:
            archive.extractall(self.packages)

    def imports(self, code: str) -> str:
        """What a piece of Python prints there."""
        command = [str(self.executable), "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=self.root).stdout.strip()


def lend(name: str, folder: Path) -> None:
    """Make a package of this Python importable from a folder too."""
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None
    origin = Path(spec.origin)
    source = origin.parent if origin.name == "__init__.py" else origin
    (folder / source.name).symlink_to(source)
