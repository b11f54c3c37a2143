"""`tf-toolkit doctor` on this machine as it is, and with programs and modules in it that are not fit."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from command_line import everything, finish, shown, start, tf_toolkit
from conftest import DEADLINE, Job, Result, wait_until

TF215 = os.environ.get("TF_TOOLKIT_TEST_TF215_PYTHON", "")
BIN = Path(sys.executable).parent
ORDER = [
    *("Python", "train", "requirements", "S3"),
    *("CPUs", "memory", "shared memory", "temporary files", "disk", "results"),
    *("TensorFlow", "mpirun", "mpi4py", "Horovod", "GPU driver", "GPU library", "GPU framework"),
    *("job", "network interface", "hosts"),
]
GPUS = "echo 'GPU 0: H100 (UUID: a)'; echo 'GPU 1: H100 (UUID: b)'"
OPEN_MPI = 'if [ "$1" = --version ]; then echo "mpirun (Open MPI) 4.1.4"; exit; fi'
# Ten times what frameworks take to be imported on a busy machine.
LONG = 300.0
# The shortest that any check may take before it is ended, for tests of what hangs.
SHORT = 8.0


class Desk:
    """A tree, programs that come first on PATH, and modules that come first for Python."""

    def __init__(self, root: Path) -> None:
        self.job = Job(root / "ml")
        self.modules = root / "modules"
        self.programs = root / "programs"
        self.programs.mkdir()
        self.path = f"{self.programs}:{BIN}:{os.environ['PATH']}"

    @property
    def variables(self) -> dict[str, str]:
        return {
            "SAGEMAKER_BASE_DIR": str(self.job.root),
            "PATH": self.path,
            **({"PYTHONPATH": str(self.modules)} if self.modules.exists() else {}),
        }

    def program(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def module(self, name: str, code: str) -> None:
        path = self.modules / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)

    def tensorflow(self, gpus: int = 0, cuda: bool = False) -> None:
        """A stand-in that is imported at once, and sees so many GPUs."""
        self.module(
            "tensorflow",
            f"""\
import sys
__version__ = "2.99.0"
print("a line of its own")
print("2026-01-01 00:00:00.1: E c/cuda_driver.cc:351] failed call to cuInit: no device", file=sys.stderr)
class test:
    is_built_with_cuda = staticmethod(lambda: {cuda})
class sysconfig:
    get_build_info = staticmethod(lambda: {{"cuda_version": "12.5.1"}} if {cuda} else {{}})
class config:
    list_physical_devices = staticmethod(lambda kind: [None] * {gpus})
""",
        )

    def hosts(self, *names: str, interface: str = "lo") -> None:
        self.job.config(
            "resourceconfig", {"current_host": names[0], "hosts": names, "network_interface_name": interface}
        )

    def examine(self, **variables: str) -> Report:
        process = start(self.job.root, "doctor", "--json", variables={**self.variables, **variables})
        return Report(finish(process, self.job.root, LONG))

    def examine_in(self, seconds: float) -> Report:
        """With no more time than this for each check."""
        code = (
            f"import os, sys; from tf_toolkit.local.doctor import doctor; sys.exit(doctor(os.environ, True, {seconds}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **self.variables},
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
        return Report(Result(done.returncode, done.stdout, done.stderr, self.job.root))


class Report:
    """What was found, by the check's name."""

    def __init__(self, result: Result) -> None:
        assert result.stderr == b"", result.log
        self.checks = json.loads(result.stdout)
        self.status = result.status
        assert [set(check) for check in self.checks] == [{"check", "state", "found", "remedy"}] * len(ORDER)
        assert [check["check"] for check in self.checks] == ORDER
        for check in self.checks:
            assert check["state"] in ("pass", "warn", "fail"), check
            assert (check["remedy"] is None) == (check["state"] == "pass"), check
            assert "\n" not in f"{check['found']}{check['remedy']}"
        assert self.status == (1 if "fail" in [check["state"] for check in self.checks] else 0)

    def __getitem__(self, name: str) -> tuple[str, str]:
        check = next(check for check in self.checks if check["check"] == name)
        return check["state"], check["found"]

    def remedy(self, name: str) -> str:
        return str(next(check["remedy"] for check in self.checks if check["check"] == name))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_machine_that_is_fit(desk: Desk) -> None:
    desk.hosts("algo-1")
    before = everything(desk.job.root)

    report = desk.examine()

    assert "fail" not in [check["state"] for check in report.checks if not check["check"].startswith("GPU")]
    assert report["Python"] == ("pass", f"{'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}")
    assert report["train"] == ("pass", str(BIN / "train"))
    assert report["requirements"] == (
        "pass",
        f"psutil {metadata.version('psutil')}, retrying {metadata.version('retrying')}",
    )
    assert report["TensorFlow"][1].startswith(metadata.version("tensorflow-cpu"))
    assert re.fullmatch(r"Open MPI \d[\d.]+ runs 2 ranks", report["mpirun"][1])
    assert report["mpi4py"] == ("pass", f"{metadata.version('mpi4py')} joins 2 ranks")
    assert report["job"] == ("pass", f"{desk.job.root}/input/config: resourceconfig.json")
    assert report["network interface"] == ("pass", "lo")
    assert report["hosts"] == ("pass", "algo-1 alone")
    assert everything(desk.job.root) == before


def test_horovod_with_mpi_and_tensorflow(desk: Desk) -> None:
    if not TF215:
        pytest.skip("TF_TOOLKIT_TEST_TF215_PYTHON names no Python with TensorFlow 2.15")
    done = subprocess.run(
        [TF215, "-m", "tf_toolkit.local", "doctor", "--json"],
        env={**os.environ, **desk.variables},
        capture_output=True,
        timeout=LONG,
        check=False,
    )

    report = Report(Result(done.returncode, done.stdout, done.stderr, desk.job.root))

    assert report["Horovod"] == ("pass", "0.28.1 with MPI and TensorFlow joins 2 ranks")


def test_lines_for_a_person(desk: Desk) -> None:
    desk.tensorflow()
    desk.hosts("algo-1", "algo-2.invalid", interface="ethwe")

    result = tf_toolkit(desk.job.root, "doctor", variables=desk.variables)

    lines = result.stdout.decode().splitlines()
    checks = [re.fullmatch(r"(pass|warn|fail)  (.{19})(\S.*)", line) for line in lines]
    assert [found[2].rstrip() for found in checks if found] == ORDER
    # The remedy stands below, indented.
    for line, found, below in zip(lines, checks, [*lines[1:], ""]):
        assert found or line.startswith(" " * 25), line
        assert not found or found[1] == "pass" or below.startswith(" " * 25), line
    assert result.stderr == b""


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_colours_on_a_terminal_alone(desk: Desk, variables: dict[str, str]) -> None:
    desk.tensorflow()
    keyboard, device = pty.openpty()

    process = start(desk.job.root, "doctor", variables={**desk.variables, "TERM": "xterm", **variables}, stdout=device)
    os.close(device)
    written = shown(keyboard)

    process.communicate(timeout=DEADLINE)
    assert (b"\x1b[32mpass\x1b[0m  Python" in written) == (not variables), written
    assert b"pass" in written


@pytest.mark.parametrize(
    ("code", "found", "remedy"),
    [
        (
            "raise ImportError('libtensorflow_cc.so.2: undefined symbol: _ZN')",
            "cannot be imported: ImportError: libtensorflow_cc.so.2: undefined symbol: _ZN",
            "install it anew",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "cannot be imported: was killed by SIGILL", "anew"),
        ("raise ModuleNotFoundError(\"No module named 'tensorflow'\")", "not installed", "pip install tensorflow-cpu"),
        ("print('not what it is called')", "cannot be imported: AttributeError: ", "anew"),
    ],
)
def test_tensorflow_that_cannot_be_imported(desk: Desk, code: str, found: str, remedy: str) -> None:
    desk.module("tensorflow", code)

    report = desk.examine()

    state, text = report["TensorFlow"]
    assert (state, text[: len(found)]) == ("fail", found)
    assert remedy in report.remedy("TensorFlow")


def test_what_hangs_is_ended(desk: Desk, tmp_path: Path) -> None:
    desk.module(
        "tensorflow", f"import os, time\nopen({str(tmp_path / 'tf')!r}, 'w').write(str(os.getpid()))\ntime.sleep(999)"
    )
    desk.program("mpirun", f"{OPEN_MPI}\necho $$ >{tmp_path}/mpirun\nsleep 999 &\necho $! >{tmp_path}/rank\nwait")
    desk.program("nvidia-smi", f"echo $$ >{tmp_path}/tool\nsleep 999")

    report = desk.examine_in(SHORT)

    assert re.fullmatch(r"cannot be imported: gave no answer in \d s", report["TensorFlow"][1])
    assert re.fullmatch(r"Open MPI 4.1.4 does not run 2 ranks: gave no answer in \d s", report["mpirun"][1])
    assert report["mpi4py"] == ("warn", f"{metadata.version('mpi4py')}, not tried without mpirun")
    assert report["GPU driver"] == ("fail", "nvidia-smi gave no answer in 5 s; assuming none of its devices")
    assert report["hosts"][0] == "pass"
    for name in ("tf", "mpirun", "rank", "tool"):
        wait_until(lambda name=name: gone(tmp_path / name), f"{name} is gone")  # type: ignore[misc]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_it_quietly_with_all_that_it_started(desk: Desk, tmp_path: Path, number: int) -> None:
    desk.tensorflow()
    desk.program("mpirun", f"{OPEN_MPI}\nsleep 999 &\necho $! >{tmp_path}/rank\nwait")
    process = start(desk.job.root, "doctor", variables=desk.variables)
    wait_until(lambda: (tmp_path / "rank").exists() and (tmp_path / "rank").read_text().strip(), "mpirun runs")

    process.send_signal(number)

    _, stderr = process.communicate(timeout=DEADLINE)
    assert (process.returncode, stderr) == (128 + number, b"")
    wait_until(lambda: gone(tmp_path / "rank"), "what mpirun started is gone")


def gone(pid_file: Path) -> bool:
    try:
        return Path(f"/proc/{pid_file.read_text().strip()}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'HYDRA build details:'", "/mpirun is not Open MPI's: 'HYDRA build details:'"),
        ("echo 'libopen-rte.so.40: cannot open' >&2; exit 127", "/mpirun --version: libopen-rte.so.40: cannot open"),
        (
            f"{OPEN_MPI}\necho 'There are not enough slots' >&2; exit 1",
            "Open MPI 4.1.4 does not run 2 ranks: There are not enough slots",
        ),
        # The words at the end are Python, -c and the program.
        (
            f'{OPEN_MPI}\nOMPI_COMM_WORLD_SIZE=1 exec "${{@: -3}}"',
            "Open MPI 4.1.4 does not run 2 ranks: only 1 came",
        ),
    ],
)
def test_an_mpirun_that_is_not_fit(desk: Desk, script: str, found: str) -> None:
    desk.tensorflow()
    desk.program("mpirun", script)

    report = desk.examine()

    state, text = report["mpirun"]
    assert state == "fail"
    assert found in text
    assert report["mpi4py"][0] == "warn"


@pytest.mark.parametrize("wanted", [False, True])
def test_no_mpirun_matters_to_jobs_of_mpi(desk: Desk, wanted: bool) -> None:
    desk.tensorflow()
    (desk.programs / "train").symlink_to(BIN / "train")
    desk.path = str(desk.programs)
    desk.job.hyperparameters(sagemaker_mpi_enabled=wanted)

    report = desk.examine()

    assert report["mpirun"][0] == ("fail" if wanted else "warn")
    assert "openmpi-bin" in report.remedy("mpirun")


def test_modules_that_are_not_fit(desk: Desk) -> None:
    desk.tensorflow()
    desk.module("psutil", "raise ImportError('built for another Python')")
    desk.module("boto3", "raise ModuleNotFoundError(\"No module named 'boto3'\")")
    desk.module("mpi4py", "MPI = None")
    desk.module("horovod.__init__", "")
    desk.module("horovod.tensorflow", "mpi_built = lambda: 0")
    desk.hosts("algo-1", interface="ethwe")

    report = desk.examine()

    assert report["requirements"] == ("fail", "psutil cannot be imported: ImportError: built for another Python")
    assert report.remedy("requirements") == "pip install psutil retrying"
    assert report["S3"] == ("warn", "boto3 is not installed")
    assert report["network interface"] == ("fail", "not looked for: built for another Python")
    assert report["mpirun"] == ("fail", "not tried: built for another Python")
    assert report["Horovod"][0] == "warn"


def test_packages_that_are_not_made_for_this_mpi(desk: Desk) -> None:
    desk.tensorflow()
    desk.module("mpi4py", "class MPI:\n    class COMM_WORLD:\n        allreduce = staticmethod(lambda value: 1)")
    desk.module("horovod.__init__", "")
    desk.module("horovod.tensorflow", "mpi_built = lambda: 0")

    report = desk.examine()

    assert report["mpi4py"] == ("fail", f"{metadata.version('mpi4py')} does not join 2 ranks: each is alone")
    assert report["Horovod"] == ("fail", "of no known version is built without MPI")
    assert "HOROVOD_WITH_MPI=1" in report.remedy("Horovod")


def test_gpus_that_all_see(desk: Desk) -> None:
    desk.program("nvidia-smi", GPUS)
    desk.tensorflow(gpus=2, cuda=True)

    report = desk.examine()

    assert report["GPU driver"][0] == "pass"
    assert report["GPU driver"][1].startswith("2 GPUs, ")
    assert report["GPU framework"] == ("pass", "TensorFlow for CUDA 12.5.1, 2 GPUs")


@pytest.mark.parametrize(
    ("cuda", "visible", "found", "remedy"),
    [
        (False, None, "TensorFlow 2.99.0 is built without CUDA", "tensorflow[and-cuda]==2.99.0"),
        (
            True,
            None,
            "TensorFlow for CUDA 12.5.1 sees 1 of 2 GPUs: failed call to cuInit: no device",
            "see GPU library",
        ),
        (
            True,
            "0",
            "TensorFlow for CUDA 12.5.1 sees 1 of 2 GPUs: CUDA_VISIBLE_DEVICES is '0'",
            "unset CUDA_VISIBLE_DEVICES",
        ),
    ],
)
def test_gpus_that_tensorflow_does_not_see(
    desk: Desk, tmp_path: Path, cuda: bool, visible: str | None, found: str, remedy: str
) -> None:
    desk.program("nvidia-smi", GPUS)
    desk.tensorflow(gpus=1 if cuda else 0, cuda=cuda)
    (tmp_path / "libcuda.so.1").write_bytes(b"")
    hidden = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}

    report = desk.examine(LD_LIBRARY_PATH=str(tmp_path), **hidden)

    assert report["GPU driver"][0] == "pass"
    assert report["GPU framework"] == ("fail", found)
    assert remedy in report.remedy("GPU framework")


def test_a_driver_s_library_that_does_not_load(desk: Desk, tmp_path: Path) -> None:
    desk.program("nvidia-smi", GPUS)
    desk.tensorflow(gpus=2, cuda=True)
    (tmp_path / "libcuda.so.1").write_bytes(b"")

    report = desk.examine(LD_LIBRARY_PATH=str(tmp_path))

    assert report["GPU driver"][0] == "pass"
    assert report["GPU library"] == ("fail", f"the driver's does not load: {tmp_path}/libcuda.so.1: file too short")
    assert "--gpus all" in report.remedy("GPU library")
    assert report["GPU framework"][0] == "pass"


def test_a_driver_that_fails(desk: Desk) -> None:
    desk.program("nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    desk.tensorflow()

    report = desk.examine()

    assert report["GPU driver"] == ("fail", "nvidia-smi failed with status 18; assuming none of its devices")


def test_another_train_comes_first(desk: Desk) -> None:
    desk.tensorflow()
    desk.program("train", "exit 0")

    report = desk.examine()

    assert report["train"] == ("fail", f"{desk.programs}/train is another program")
    assert str(BIN) in report.remedy("train")


def test_a_file_where_the_model_should_be(desk: Desk) -> None:
    desk.tensorflow()
    (desk.job.root / "model").write_text("mine")

    report = desk.examine()

    assert report["results"] == ("fail", f"user {os.geteuid()} cannot write: {desk.job.root}/model: File exists")
    assert (desk.job.root / "model").read_text() == "mine"


def test_no_tree_at_all(desk: Desk, tmp_path: Path) -> None:
    desk.tensorflow()

    report = desk.examine(SAGEMAKER_BASE_DIR=str(tmp_path / "nowhere"))

    assert report["results"] == ("warn", f"there is no {tmp_path}/nowhere")
    assert report["job"][0] == "pass"
    assert report["hosts"] == ("pass", "no job is described here")
    assert not (tmp_path / "nowhere").exists()


def test_a_description_that_is_wrong(desk: Desk) -> None:
    desk.tensorflow()
    desk.job.config("resourceconfig", '{"current_host": "algo-1",')

    report = desk.examine()

    state, found = report["job"]
    assert state == "fail"
    assert found.startswith(f"{desk.job.root}/input/config/resourceconfig.json: not JSON: ")
    assert report["network interface"] == ("warn", "not known")
    # Found out without it.
    assert report["mpirun"][0] == "pass"


def test_hosts_and_an_interface_that_are_not_here(desk: Desk) -> None:
    desk.tensorflow()
    desk.hosts("localhost", "algo-2.invalid", "a..b", interface="ethwe")

    report = desk.examine()

    state, found = report["network interface"]
    assert state == "warn"
    assert re.fullmatch(r"resourceconfig.json names 'ethwe', which is not here; jobs use '\S+' instead", found)
    assert report["hosts"] == ("warn", "localhost, 3 in all; these names do not resolve: algo-2.invalid, a..b")


def test_arguments_that_it_does_not_take(desk: Desk) -> None:
    result = tf_toolkit(desk.job.root, "doctor", "--", "train.py")

    assert (result.status, result.stdout) == (2, b"")
    assert result.stderr == b"tf-toolkit: error: doctor runs no script, so nothing can follow --\n"
