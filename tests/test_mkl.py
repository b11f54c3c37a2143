"""The oneDNN switch and the thread counts, as values and as real TensorFlow obeys them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from conftest import DEADLINE, PROGRAMS
from tf_toolkit import mkl
from tf_toolkit.config import JobConfig, read_config
from tf_toolkit.contract import Paths

# The Python of an environment with TensorFlow 2.15, where there is one beside the installed TensorFlow.
PYTHONS = [python for python in (sys.executable, os.environ.get("TF_TOOLKIT_TEST_TF215_PYTHON")) if python]
SWITCH = "sagemaker_mkl_enabled"
OFF = {"TF_DISABLE_MKL": "1", "TF_DISABLE_POOL_ALLOCATOR": "1", "TF_ENABLE_ONEDNN_OPTS": "0"}


def config(root: Path, **hyperparameters: str) -> JobConfig:
    (root / "input" / "config").mkdir(parents=True, exist_ok=True)
    (root / "input" / "config" / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    return read_config(Paths(root), {})


def switch(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name in OFF}


def test_one_process_has_all_cpus(tmp_path: Path) -> None:
    assert mkl.variables(config(tmp_path), cpus=8, processes=1, environ={}) == {
        "KMP_AFFINITY": "granularity=fine,compact,1,0",
        "KMP_BLOCKTIME": "1",
        "KMP_SETTINGS": "0",
        "OMP_NUM_THREADS": "8",
        "TF_NUM_INTRAOP_THREADS": "8",
        "TF_NUM_INTEROP_THREADS": "8",
    }


def test_several_processes_share_the_cpus_and_are_bound_to_none(tmp_path: Path) -> None:
    assert mkl.variables(config(tmp_path), cpus=8, processes=3, environ={}) == {
        "KMP_BLOCKTIME": "1",
        "KMP_SETTINGS": "0",
        "OMP_NUM_THREADS": "2",
        "TF_NUM_INTRAOP_THREADS": "2",
        "TF_NUM_INTEROP_THREADS": "2",
    }


def test_more_processes_than_cpus(tmp_path: Path) -> None:
    variables = mkl.variables(config(tmp_path), cpus=2, processes=8, environ={})
    assert variables["OMP_NUM_THREADS"] == variables["TF_NUM_INTRAOP_THREADS"] == "1"
    assert variables["TF_NUM_INTEROP_THREADS"] == "2"


def test_what_the_user_set_wins(tmp_path: Path) -> None:
    off = config(tmp_path, **{SWITCH: "false"})
    everything = mkl.variables(off, cpus=8, processes=1, environ={})
    for name in everything:
        left = mkl.variables(off, cpus=8, processes=1, environ={name: "theirs"})
        assert left == {other: value for other, value in everything.items() if other != name}


@pytest.mark.parametrize(
    ("hyperparameter", "environ", "expected"),
    [
        (None, {}, {}),
        ("null", {}, {}),
        ("false", {}, OFF),
        ("true", {}, {"TF_ENABLE_ONEDNN_OPTS": "1"}),
        (None, {"TF_DISABLE_MKL": "True"}, {"TF_DISABLE_POOL_ALLOCATOR": "1", "TF_ENABLE_ONEDNN_OPTS": "0"}),
        ("true", {"TF_DISABLE_MKL": "1"}, {"TF_DISABLE_POOL_ALLOCATOR": "1", "TF_ENABLE_ONEDNN_OPTS": "0"}),
        (None, {"TF_DISABLE_MKL": "1", "TF_ENABLE_ONEDNN_OPTS": "1"}, {"TF_DISABLE_POOL_ALLOCATOR": "1"}),
        (None, {"TF_DISABLE_MKL": "0"}, {}),
    ],
)
def test_the_switch(
    tmp_path: Path, hyperparameter: str | None, environ: dict[str, str], expected: dict[str, str]
) -> None:
    job = config(tmp_path, **({} if hyperparameter is None else {SWITCH: hyperparameter}))
    assert switch(mkl.variables(job, cpus=2, processes=1, environ=environ)) == expected


def trained(python: str, environ: Mapping[str, str]) -> tuple[int, int]:
    """Train a little in a process of its own: how many oneDNN primitives it ran, and how many threads it had."""
    result = subprocess.run(
        [python, str(PROGRAMS / "training_step.py")],
        env={"PATH": os.environ["PATH"], "ONEDNN_VERBOSE": "1", **environ},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=2 * DEADLINE,
    )
    executed = re.findall(r"^onednn_verbose,(?:v1,primitive,)?exec,cpu,(\w+)", result.stdout, re.MULTILINE)
    # Not a primitive but a function that TensorFlow's own matrix products call, switched on or off.
    primitives = [name for name in executed if name != "gemm_api"]
    return len(primitives), int(result.stdout.rpartition("threads: ")[2])


@pytest.mark.parametrize("python", PYTHONS)
def test_real_tensorflow_obeys(tmp_path: Path, python: str) -> None:
    on = mkl.variables(config(tmp_path, **{SWITCH: "true"}), cpus=6, processes=1, environ={})
    off = mkl.variables(config(tmp_path, **{SWITCH: "false"}), cpus=6, processes=3, environ={})

    primitives, threads = trained(python, on)
    assert primitives >= 3
    none, fewer_threads = trained(python, off)
    assert none == 0
    # Both pools: six threads each, and two each.
    assert threads - fewer_threads == 8
