"""What the tests share: a tree as the platform mounts it, real `train` processes, a local S3 endpoint, deadlines."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from xdist.scheduler import LoadScopeScheduling

# Ten times what the slowest plain job takes on a loaded machine.
DEADLINE = 60.0
PROGRAMS = Path(__file__).parent / "programs"
EXAMPLES = Path(__file__).parent.parent / "examples"


# Whatever started the tests may ignore them, as nohup and a shell's "&" do; what they start must not.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_until(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """The condition's first true value; fails with ``what`` when the deadline passes."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline} s: {what}")


class Result(NamedTuple):
    """How a `train` process ended, as its user sees it."""

    status: int
    stdout: bytes
    stderr: bytes
    root: Path

    @property
    def log(self) -> str:
        return self.stderr.decode(errors="replace")

    @property
    def failure(self) -> str:
        return (self.root / "output" / "failure").read_text()

    @property
    def headline(self) -> str:
        """What the platform shows as the reason: the first 1,024 bytes."""
        return (self.root / "output" / "failure").read_bytes()[:1024].decode(errors="replace")

    @property
    def succeeded(self) -> bool:
        return (self.root / "output" / "success").exists()

    @property
    def seen(self) -> dict[str, Any]:
        """What tests/programs/dump.py saw: argv, env, cwd."""
        seen: dict[str, Any] = json.loads((self.root / "model" / "seen.json").read_text())
        return seen


class Job:
    """A tree like /opt/ml in a temporary directory, and `train` over it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if not re.match(r"SM_|SAGEMAKER|AWS|TF_|OMP|KMP|PYTHON|CI$", name)
        }
        self.environ["SAGEMAKER_BASE_DIR"] = str(root)
        (root / "input" / "config").mkdir(parents=True)
        (root / "code").mkdir()

    def config(self, name: str, content: object) -> None:
        """Write a configuration file: text and bytes as they are, anything else as JSON."""
        path = self.root / "input" / "config" / f"{name}.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))

    def hyperparameters(self, **values: object) -> None:
        """Write hyperparameters as the service sends them: strings as they are, anything else as JSON in a string."""
        self.config("hyperparameters", {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()})

    def code(self, name: str, text: str) -> Path:
        """Write a file of the user's code."""
        path = self.root / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def program(self, name: str) -> None:
        """Copy a program of tests/programs into the code directory."""
        self.code(Path(name).name, (PROGRAMS / name).read_text())

    def start(self, **options: Any) -> subprocess.Popen[bytes]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
        return subprocess.Popen([sys.executable, "-m", "tf_toolkit.train"], env=self.environ, cwd=self.root, **options)

    def finish(self, process: subprocess.Popen[bytes], deadline: float = DEADLINE) -> Result:
        try:
            stdout, stderr = process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Result(process.returncode, stdout or b"", stderr or b"", self.root)

    def train(self, deadline: float = DEADLINE, **options: Any) -> Result:
        return self.finish(self.start(**options), deadline)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / "ml")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The channels `train` and `test` of the examples; nobody writes there."""
    folder = tmp_path_factory.mktemp("digits")
    prepare = EXAMPLES / "digits" / "prepare_data.py"
    subprocess.run([sys.executable, prepare, folder], check=True, timeout=DEADLINE)
    return folder


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models, each <name>/1, that TensorFlow has written: see make_models.py; nobody writes there."""
    return _written_by("make_models.py", tmp_path_factory.mktemp("saved_models"))


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that takes as many seconds as it is given: see make_slow_model.py."""
    return _written_by("make_slow_model.py", tmp_path_factory.mktemp("slow_model")) / "slow"


def _written_by(program: str, folder: Path) -> Path:
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    program_path = PROGRAMS / "serving" / program
    subprocess.run([sys.executable, program_path, folder], check=True, timeout=10 * DEADLINE, env=environ)
    return folder


@contextlib.contextmanager
def s3_server(address: str) -> Iterator[str]:
    """A local S3 endpoint of its own process (moto's server) at this machine's address; its URL."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    url = f"http://{address}:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", address, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except OSError:
            return False

    try:
        wait_until(answers, "the S3 endpoint answers")
        yield url
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    with s3_server("127.0.0.1") as url:
        yield url


AWS_ENVIRON = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing-secret-value",
    "AWS_REGION": "us-west-2",
    "AWS_DEFAULT_REGION": "us-west-2",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def s3_client(url: str) -> Any:
    """A boto3 client of a local endpoint."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-west-2",
        aws_access_key_id=AWS_ENVIRON["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=AWS_ENVIRON["AWS_SECRET_ACCESS_KEY"],
    )


@pytest.fixture
def s3(s3_url: str) -> Any:
    return s3_client(s3_url)


def _skip_fails_in_ci(report: Any) -> Any:
    """In CI nothing is left out unseen: a test that would skip fails, with the reason that it gave."""
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr[2]}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    return _skip_fails_in_ci((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    return _skip_fails_in_ci((yield))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in containers come last."""
    items.sort(key=_needs_containers)


_IN_ONE_PROCESS = ("tests/containers/", "tests/test_demo.py")


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Which process runs a test: any, but one for all that share the Docker daemon, or the folder of the demo."""

    def _split_scope(self, nodeid: str) -> str:
        return next((alone for alone in _IN_ONE_PROCESS if nodeid.startswith(alone)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Its own ``loadgroup`` groups nothing with newer versions of pytest."""
    return _Scheduling(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Their images are built while the others run."""
    if {True, False} == {_needs_containers(item) for item in session.items}:
        from docker_hosts import build_images

        build_images()


def _needs_containers(item: pytest.Item) -> bool:
    return item.get_closest_marker("containers") is not None
