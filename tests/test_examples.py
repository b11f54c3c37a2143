"""The examples, each as a job on hosts of this machine, and the models that come out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import DEADLINE, EXAMPLES

# Several processes that each import TensorFlow, and the examples' own waits for one another.
JOB_DEADLINE = 10 * DEADLINE
NEWEST = sys.executable
TF215 = os.environ.get("TF_TOOLKIT_TEST_TF215_PYTHON", "")


@pytest.mark.parametrize(
    ("example", "distribution", "python"),
    [
        pytest.param("multi_worker_mirrored", "multi_worker_mirrored", NEWEST, id="multi_worker_mirrored-newest"),
        pytest.param("multi_worker_mirrored", "multi_worker_mirrored", TF215, id="multi_worker_mirrored-2.15"),
        pytest.param("estimator", "parameter_server", TF215, id="estimator-2.15"),
        pytest.param("parameter_server", "parameter_server", NEWEST, id="parameter_server-newest"),
        pytest.param("horovod", "mpi", TF215, id="horovod-2.15"),
    ],
)
def test_an_example_trains_a_model_on_two_hosts(
    tmp_path: Path, digits: Path, example: str, distribution: str, python: str
) -> None:
    words = ("--hosts", "2", "--distribution", distribution)
    train_and_try(tmp_path, digits, python, example, digits, *words)


@pytest.mark.parametrize("python", [pytest.param(NEWEST, id="newest"), pytest.param(TF215, id="2.15")])
@pytest.mark.parametrize("example", ["pipe_mode_tfrecord", "pipe_mode_recordio"])
def test_an_example_trains_a_model_on_channels_in_pipe_mode(
    tmp_path: Path, digits: Path, example: str, python: str
) -> None:
    prepare = EXAMPLES / example / "prepare_data.py"
    subprocess.run([NEWEST, prepare, digits, tmp_path / "data"], check=True, timeout=JOB_DEADLINE)
    words = ("--input-mode", "Pipe", "--shuffle-seed", "1")
    train_and_try(tmp_path, tmp_path / "data", python, example, digits, *words)


def train_and_try(tmp_path: Path, data: Path, python: str, example: str, digits: Path, *words: str) -> None:
    """Run an example as a job, and try the model on the images of the channel `test`."""
    if not python:
        pytest.skip("TF_TOOLKIT_TEST_TF215_PYTHON names no Python with TensorFlow 2.15")
    job = subprocess.run(
        [
            *(Path(python).parent / "tf-toolkit", "run", EXAMPLES / example / "train.py"),
            *("--train", data / "train", "--channel", f"test={data / 'test'}"),
            *("--output", tmp_path / "job"),
            *words,
        ],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=JOB_DEADLINE,
    )
    assert job.returncode == 0, job.stdout
    # Once, by the host that saves the model.
    (trained,) = re.findall(r"test accuracy: ([0-9.]+)$", job.stdout, re.MULTILINE)
    assert float(trained) > 0.9
    # The model is what a server would load, whatever is said of it.
    model = tmp_path / "job" / "model" / "1"
    assert (model / "saved_model.pb").is_file()
    evaluated = subprocess.run(
        [python, EXAMPLES / "digits" / "evaluate.py", model, digits / "test"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=JOB_DEADLINE,
    )
    assert evaluated.stdout == f"test accuracy: {trained}\n"
