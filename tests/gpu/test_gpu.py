"""Jobs on this machine's NVIDIA devices, with a TensorFlow that has CUDA: `scripts/test --gpu`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import Job

pytestmark = pytest.mark.gpu

# Ten times what TensorFlow takes to be imported, and to compile its first operation for a GPU.
LONG = 600.0
LINES = ("GPU driver", "GPU library", "GPU framework")


@pytest.fixture(scope="module")
def gpus() -> int:
    """How many the driver's own tool lists."""
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=LONG, check=True).stdout
    count = sum(line.startswith("GPU ") for line in listed.splitlines())
    assert count > 0, listed
    return count


def written(job: Job) -> list[dict[str, Any]]:
    """What each rank of tests/programs/gpu/step.py wrote."""
    return [json.loads(path.read_text()) for path in sorted((job.root / "output" / "data").glob("*.json"))]


def doctor(job: Job, **variables: str) -> dict[str, dict[str, str]]:
    """What `tf-toolkit doctor` finds, by the check's name."""
    environ = {**job.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}
    done = subprocess.run(
        [sys.executable, "-m", "tf_toolkit.local", "doctor", "--json"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.stderr == ""
    return {check["check"]: check for check in json.loads(done.stdout)}


def states(report: dict[str, dict[str, str]]) -> list[str]:
    return [report[line]["state"] for line in LINES]


def test_train_exports_how_many_there_are(job: Job, gpus: int) -> None:
    job.program("dump.py")

    result = job.train()

    assert result.status == 0, result.log
    assert result.seen["env"]["SM_NUM_GPUS"] == str(gpus)


def test_a_script_trains_on_a_gpu(job: Job, gpus: int) -> None:
    job.program("gpu/step.py")

    result = job.train(LONG)

    assert result.status == 0, result.log
    (found,) = written(job)
    assert found["gpus"] == gpus
    assert found["weights_on"].endswith("device:GPU:0")
    assert found["losses"][-1] < found["losses"][0]


def test_mpi_has_a_process_for_each_gpu_and_each_takes_its_own(job: Job, gpus: int) -> None:
    job.program("gpu/step.py")
    job.config("resourceconfig", {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "lo"})
    job.hyperparameters(sagemaker_mpi_enabled=True)

    result = job.train(LONG)

    assert result.status == 0, result.log
    found = written(job)
    assert [rank["size"] for rank in found] == [gpus] * gpus
    assert [rank["count"] for rank in found] == [str(gpus)] * gpus
    assert sorted(rank["taken"] for rank in found) == sorted(
        [f"/physical_device:GPU:{number}"] for number in range(gpus)
    )
    for rank in found:
        assert rank["weights_on"].endswith("device:GPU:0")
        assert rank["losses"][-1] < rank["losses"][0]


def test_doctor_finds_driver_library_and_framework_fit(job: Job, gpus: int) -> None:
    report = doctor(job)

    assert states(report) == ["pass", "pass", "pass"], report
    for line in LINES:
        assert f"{gpus} GPU" in report[line]["found"]


def test_doctor_tells_gpus_that_are_hidden_from_the_framework(job: Job, gpus: int) -> None:
    report = doctor(job, CUDA_VISIBLE_DEVICES="")

    assert states(report) == ["pass", "pass", "fail"], report
    assert report["GPU framework"]["found"].endswith(
        f"sees 0 of {gpus} GPU{'s' if gpus > 1 else ''}: CUDA_VISIBLE_DEVICES is ''"
    )
    assert report["GPU framework"]["remedy"] == "unset CUDA_VISIBLE_DEVICES"


def test_doctor_tells_a_library_that_does_not_load(job: Job, gpus: int, tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"")

    report = doctor(job, LD_LIBRARY_PATH=str(tmp_path))

    assert states(report) == ["pass", "fail", "fail"], report
    assert "file too short" in report["GPU library"]["found"]


def test_doctor_tells_a_driver_that_does_not_answer(job: Job, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)

    report = doctor(job, PATH=f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}")

    assert report["GPU driver"]["state"] == "fail"
    assert "nvidia-smi failed with status 9" in report["GPU driver"]["found"]
