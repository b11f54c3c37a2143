"""The image by itself: what can be run in it, under which limits, and what is not in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_hosts import NEWEST, ROOT, TENSORFLOWS, Hosts, image

from conftest import PROGRAMS, Job
from opt_ml_case import Case
from pipe import FORMATS, Pipes, framed

pytestmark = pytest.mark.containers

ONE = ("algo-1",)
MPI_OF_TWO = {"sagemaker_mpi_enabled": True, "sagemaker_mpi_num_of_processes_per_host": 2}
# Modules without byte code that would be used: each would be compiled anew by every process, or written by one.
UNCOMPILED = """
import importlib.util, pathlib, sys

def compiles(source):
    try:
        compile(source, "", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True

for folder in ("/opt/venv/lib", "/usr/lib/python3", "/usr/lib/python3." + str(sys.version_info.minor)):
    for path in pathlib.Path(folder).rglob("*.py"):
        cached = pathlib.Path(importlib.util.cache_from_source(path))
        head = cached.read_bytes()[:16] if cached.exists() else b""
        # https://peps.python.org/pep-0552/: the interpreter's number, flags, then time and size of the source.
        state = path.stat()
        wanted = [int(state.st_mtime) & 0xFFFFFFFF, state.st_size & 0xFFFFFFFF]
        found = [int.from_bytes(head[start : start + 4], "little") for start in (8, 12)]
        if head[:4] != importlib.util.MAGIC_NUMBER or found != wanted:
            if compiles(path.read_bytes()):
                print(path)
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path, image()) as hosts:
        yield hosts


@pytest.fixture
def tree(tmp_path: Path) -> Job:
    """A tree that any user may write to."""
    tree = Job(tmp_path / "ml")
    for folder in (tree.root, tree.root / "code"):
        folder.chmod(0o777)
    return tree


def run(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = ["docker", "run", "--rm", "--interactive", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


def test_train_with_further_arguments(tree: Job) -> None:
    tree.program("dump.py")

    assert run("--volume", f"{tree.root}:/opt/ml", image(), "train", "--flag", "a b").returncode == 0
    assert json.loads((tree.root / "model" / "seen.json").read_text())["argv"] == ["--flag", "a b"]


@pytest.mark.parametrize("place", ["/opt/ml", "/else/where"])
def test_no_word_at_all_trains_where_there_is_a_job(tree: Job, place: str) -> None:
    tree.code("train.py", "print('trained')")

    done = run("--volume", f"{tree.root}:{place}", "--env", f"SAGEMAKER_BASE_DIR={place}", image())

    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    assert (tree.root / "output" / "success").exists()


def test_no_word_and_no_job_tells_what_there_is() -> None:
    done = run(image())

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("There is no training job at /opt/ml/input/config.")
    for offered in ("IMAGE train ", "IMAGE tf-toolkit doctor ", "IMAGE COMMAND"):
        assert f" {offered}" in done.stderr


def test_a_path_of_the_job_s_own_does_not_hide_the_toolkit() -> None:
    assert run("--env", "PATH=/nowhere", image(), "tf-toolkit", "--version").returncode == 0


@pytest.mark.parametrize("user", ["0", "1000"])
def test_any_other_command_is_run_as_it_stands(user: str) -> None:
    done = run("--user", user, image(), "bash", "-c", 'echo "$(id -u) $0 $1"', "a b", "*")

    assert (done.returncode, done.stdout) == (0, f"{user} a b *\n")


def test_bash_is_a_shell() -> None:
    done = run(image(), "bash", given="type python mpirun\nexit 7\n")

    assert done.returncode == 7
    assert done.stdout == "python is /opt/venv/bin/python\nmpirun is /usr/bin/mpirun\n"


@pytest.mark.parametrize("init", [True, False])
def test_what_a_script_leaves_behind_is_reaped(hosts: Hosts, init: bool) -> None:
    hosts.describe("containers/orphans.py", {}, ONE)
    hosts.start(init=init)

    assert hosts.ends(60) == {"algo-1": 0}
    assert hosts["algo-1"].output(stderr=False) == "0 zombies\n"


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("status", [143, 0])
def test_docker_stop_lets_the_script_save_and_say_its_own_status(hosts: Hosts, status: int, init: bool) -> None:
    hosts.describe("containers/checkpoint.py", {"status": status}, ONE)
    hosts.start(init=init)
    hosts["algo-1"].wait_for("training\n")

    # A script that never hears of it is killed after this, and the status is another.
    hosts["algo-1"].container.stop(timeout=60)

    assert hosts.ends(60) == {"algo-1": status}
    assert (hosts["algo-1"].tree.root / "model" / "checkpoint").read_text() == "saved"
    assert hosts["algo-1"].succeeded == (status == 0)
    if status != 0:
        assert hosts["algo-1"].headline.startswith("stopped: SIGTERM asked the job to end; the script ended: ")


def test_too_little_memory_is_named_as_the_cause(hosts: Hosts) -> None:
    hosts.describe("containers/memory.py", {}, ONE)
    hosts.start(mem_limit="200m", memswap_limit="200m")

    assert hosts.ends(60) == {"algo-1": 137}
    headline = hosts["algo-1"].headline
    assert headline.startswith("user code: out of memory: the kernel killed 1 process(es)"), headline
    assert "limit 200 MiB" in headline


def test_a_script_that_is_killed_for_no_want_of_memory(tree: Job) -> None:
    tree.code("train.py", "import os\nos.kill(os.getpid(), 9)\n")

    assert run("--volume", f"{tree.root}:/opt/ml", image(), "train").returncode == 137
    failure = (tree.root / "output" / "failure").read_text()
    assert failure.startswith("user code: killed by SIGKILL (exit status 137)\n")


@pytest.mark.parametrize("parameters", [{}, MPI_OF_TWO], ids=["alone", "mpi"])
@pytest.mark.parametrize(
    "options",
    [
        ("--read-only", "--tmpfs", "/tmp"),
        ("--network", "none"),
        ("--user", "1000"),
        ("--user", "1000", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
    ],
    ids=" ".join,
)
def test_a_job_in_a_container_that_may_do_little(
    tree: Job, options: tuple[str, ...], parameters: dict[str, object]
) -> None:
    tree.program("containers/sums.py")
    tree.hyperparameters(**parameters)

    done = run(*options, "--volume", f"{tree.root}:/opt/ml", image(), "train")

    assert done.returncode == 0, done.stderr
    ranks = 2 if parameters else 1
    found = [json.loads((tree.root / "output" / "data" / f"rank-{rank}.json").read_text()) for rank in range(ranks)]
    assert [rank["sum"] for rank in found] == ([3, 3] if parameters else [1])


def test_a_user_who_is_not_root_and_has_no_home_installs_requirements(tmp_path: Path) -> None:
    case = Case("requirements_from_wheels", tmp_path / "ml")
    case.root.chmod(0o777)

    case.check(run("--user", "1000", "--network", "none", "--volume", f"{case.root}:/opt/ml", image(), "train"))


def test_only_the_code_is_mounted_and_the_user_is_not_root(tree: Job) -> None:
    tree.code("train.py", "import os\nopen(os.environ['SM_MODEL_DIR'] + '/weights', 'w').close()\nprint('saved')")

    done = run("--user", "1000", "--volume", f"{tree.root / 'code'}:/opt/ml/code:ro", image(), "train")

    assert (done.returncode, done.stdout) == (0, "saved\n"), done.stderr


@pytest.mark.parametrize("tensorflow", TENSORFLOWS)
def test_all_modules_are_compiled(tensorflow: str) -> None:
    done = run(image(tensorflow), "python", "-c", UNCOMPILED)

    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_job_that_imports_all_of_it_writes_nothing_but_its_results(hosts: Hosts) -> None:
    hosts.describe("containers/frameworks.py", {}, ONE)
    hosts.start()

    assert hosts.ends(120) == {"algo-1": 0}
    assert [change["Path"] for change in hosts["algo-1"].container.diff() or ()] == []


def test_it_has_what_jobs_need_and_neither_a_compiler_nor_a_server_for_logins() -> None:
    code = "import tensorflow, mpi4py.MPI, boto3, tf_toolkit; print(tensorflow.__version__)"
    unwanted = "command -v gcc cc g++ c++ clang nvcc as ld make cmake sshd"
    keys = "find / -xdev -name 'ssh_host_*' -o -name 'id_[rde]*sa*' -o -name authorized_keys"

    assert run(image(), "python", "-c", code).stdout.startswith(NEWEST)
    assert "Open MPI" in run(image(), "mpirun", "--version").stdout
    assert run(image(), "sh", "-c", f"{unwanted}; {keys}").stdout == ""


@pytest.mark.parametrize("tensorflow", TENSORFLOWS)
def test_it_reads_pipes_with_its_compiled_reader(tmp_path: Path, tensorflow: str) -> None:
    pipes = Pipes(tmp_path / "ml")
    records = [b"a" * 1000, b"b", b""] * 100
    pipes.feed(*(b"".join(framed(form, record) for record in records) for form in FORMATS))
    volumes = ["--volume", f"{tmp_path / 'ml'}:/opt/ml", "--volume", f"{PROGRAMS / 'pipe_mode'}:/programs:ro"]

    done = run(*volumes, image(tensorflow), "python", "/programs/read.py", "/opt/ml", "compiled", *FORMATS)

    assert (done.returncode, done.stdout) == (0, "300 records, 100100 bytes\n" * 3), done.stderr
    name = "import sagemaker_tensorflow; print(sagemaker_tensorflow.PipeModeDataset.__module__)"
    assert run(image(tensorflow), "python", "-c", name).stdout == "tf_toolkit.pipe_mode.dataset\n"


@pytest.mark.parametrize("tensorflow", TENSORFLOWS)
def test_labels_say_what_is_in_it(tensorflow: str) -> None:
    command = ["docker", "image", "inspect", "--format", "{{json .Config.Labels}}", image(tensorflow)]
    labels = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert labels["org.opencontainers.image.title"] == "tf-toolkit"
    assert labels["org.opencontainers.image.base.name"] == "debian:bookworm-slim"
    assert labels["org.tensorflow.version"] == tensorflow
    assert labels["ai.horovod.version"] == "0.28.1"


def buildkit_client() -> str:
    """A Docker client that can have BuildKit build: since version 23 that takes a plugin, which Debian 12 has not."""
    for client in filter(None, ("docker", shutil.which("docker", path="/usr/bin"))):
        has_plugin = subprocess.run([client, "buildx", "version"], capture_output=True, check=False).returncode == 0
        version = subprocess.run([client, "--version"], capture_output=True, text=True, check=True).stdout
        if has_plugin or " version 20." in version:
            return client
    pytest.skip("no Docker client here can have BuildKit build; install docker-buildx")


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_buildkit_takes_the_dockerfile_too(kind: str) -> None:
    """It parses the whole file, whichever stage it builds."""
    command = [buildkit_client(), "build", "--file", f"docker/Dockerfile.{kind}", "--target", "wheel", "."]
    environ = {**os.environ, "DOCKER_BUILDKIT": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)

    assert built.returncode == 0, built.stderr[-4000:]
