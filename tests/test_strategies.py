"""Which strategy a job has, and its processes, as values: nothing is started here."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tf_toolkit.config import JobConfig, read_config
from tf_toolkit.contract import Paths
from tf_toolkit.environment import Environment, build_environment
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.hardware import Hardware
from tf_toolkit.process import Command, ProcessSpec
from tf_toolkit.strategies import choose, multi_worker, parameter_server

COMMAND = Command(("python", "train.py"), "/opt/ml/code", "train.py")
PARAMETER_SERVER = {"sagemaker_parameter_server_enabled": "true"}
ESTIMATOR = {**PARAMETER_SERVER, "sagemaker_parameter_server_mode": "estimator"}
COORDINATOR = {**PARAMETER_SERVER, "sagemaker_parameter_server_mode": "coordinator"}
MULTI_WORKER = {"sagemaker_multi_worker_mirrored_strategy_enabled": "true"}
HOSTS = ["algo-1", "algo-2", "algo-3"]
# Not in the order of the hosts, and without the first of them.
GROUPS = [
    {"instance_group_name": "data", "instance_type": "ml.c5.large", "hosts": ["algo-1"]},
    {"instance_group_name": "train", "instance_type": "ml.c5.large", "hosts": ["algo-3", "algo-2"]},
]


def config(
    root: Path, hyperparameters: dict[str, str], host: str = "algo-1", hosts: list[str] = HOSTS, groups: Any = ()
) -> JobConfig:
    directory = Paths(root).input_config
    directory.mkdir(parents=True, exist_ok=True)
    resources = {"current_host": host, "hosts": hosts, "instance_groups": list(groups)}
    if groups:
        resources["current_group_name"] = next(g["instance_group_name"] for g in groups if host in g["hosts"])
    (directory / "resourceconfig.json").write_text(json.dumps(resources))
    (directory / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    return read_config(Paths(root), {})


def environment(job: JobConfig, **environ: str) -> Environment:
    return build_environment(job, Hardware(8, 0, 0, ()), Paths(Path("/opt/ml")), environ, ("--epochs", "3"))


def processes(root: Path, host: str, hyperparameters: dict[str, str], **environ: str) -> tuple[ProcessSpec, ...]:
    job = config(root, hyperparameters, host)
    _, strategy = choose(job)
    return strategy.processes(job, COMMAND, environment(job, **environ))


def tasks(specs: tuple[ProcessSpec, ...]) -> list[tuple[str, int]]:
    found = [json.loads(spec.env["TF_CONFIG"])["task"] for spec in specs]
    return [(task["type"], task["index"]) for task in found]


@pytest.mark.parametrize(
    ("hyperparameters", "hosts", "chosen"),
    [
        ({}, HOSTS, "single"),
        (PARAMETER_SERVER, HOSTS, "parameter_server"),
        (PARAMETER_SERVER, HOSTS[:1], "single"),
        (MULTI_WORKER, HOSTS, "multi_worker_mirrored"),
        (MULTI_WORKER, HOSTS[:1], "multi_worker_mirrored"),
        ({**MULTI_WORKER, **PARAMETER_SERVER}, HOSTS, "parameter_server"),
    ],
)
def test_the_strategy_of_a_job(tmp_path: Path, hyperparameters: dict[str, str], hosts: list[str], chosen: str) -> None:
    assert choose(config(tmp_path, hyperparameters, hosts=hosts))[0] == chosen


@pytest.mark.parametrize("flag", [PARAMETER_SERVER, MULTI_WORKER])
def test_a_host_outside_the_groups_runs_the_script_alone(tmp_path: Path, flag: dict[str, str]) -> None:
    named = {**flag, "sagemaker_distribution_instance_groups": '["train"]'}
    assert choose(config(tmp_path, named, "algo-1", groups=GROUPS))[0] == "single"
    assert choose(config(tmp_path, named, "algo-2", groups=GROUPS))[0] != "single"


@pytest.mark.parametrize("host", HOSTS)
def test_estimator_every_host_has_the_script_and_a_parameter_server(tmp_path: Path, host: str) -> None:
    script, server = processes(tmp_path, host, ESTIMATOR)
    number = HOSTS.index(host)
    assert script.argv == ("python", "train.py", "--epochs", "3")
    assert (script.role, script.cwd, script.server) == ("script", "/opt/ml/code", False)
    assert (server.role, server.server, server.companion) == ("parameter server", True, False)
    assert server.argv == (sys.executable, "-m", "tf_toolkit.tf_server")
    assert json.loads(script.env["TF_CONFIG"])["cluster"] == {
        "master": ["algo-1:2222"],
        "ps": ["algo-1:2223", "algo-2:2223", "algo-3:2223"],
        "worker": ["algo-2:2222", "algo-3:2222"],
    }
    assert tasks((script, server)) == [("master", 0) if number == 0 else ("worker", number - 1), ("ps", number)]


def test_coordinator_only_the_chief_has_the_script(tmp_path: Path) -> None:
    script, server = processes(tmp_path, "algo-1", COORDINATOR)
    assert (script.role, server.role) == ("script", "parameter server")
    assert tasks((script, server)) == [("chief", 0), ("ps", 0)]

    worker, server = processes(tmp_path, "algo-3", COORDINATOR)
    assert (worker.role, server.role) == ("worker", "parameter server")
    assert worker.argv == server.argv == (sys.executable, "-m", "tf_toolkit.tf_server")
    assert worker.server and server.server
    assert tasks((worker, server)) == [("worker", 1), ("ps", 2)]


def test_a_parameter_server_leaves_gpus_and_cpus_to_the_others(tmp_path: Path) -> None:
    script, server = processes(tmp_path, "algo-2", ESTIMATOR)
    worker, _ = processes(tmp_path, "algo-2", COORDINATOR)
    for other in (script, worker):
        assert "CUDA_VISIBLE_DEVICES" not in other.env
        assert other.env["TF_NUM_INTRAOP_THREADS"] == "8"
    assert server.env["CUDA_VISIBLE_DEVICES"] == "-1"
    assert server.env["TF_NUM_INTRAOP_THREADS"] == "4"
    assert "KMP_AFFINITY" not in server.env


def test_indices_are_positions_among_the_hosts_that_take_part(tmp_path: Path) -> None:
    named = {**ESTIMATOR, "sagemaker_distribution_instance_groups": '["train"]'}
    job = config(tmp_path, named, "algo-2", groups=GROUPS)
    specs = parameter_server.processes(job, COMMAND, environment(job))
    assert tasks(specs) == [("worker", 0), ("ps", 1)]
    assert json.loads(specs[0].env["TF_CONFIG"])["cluster"]["ps"] == ["algo-3:2223", "algo-2:2223"]

    job = config(tmp_path, {**MULTI_WORKER, **named}, "algo-2", groups=GROUPS)
    assert json.loads(multi_worker.processes(job, COMMAND, environment(job))[0].env["TF_CONFIG"])["task"]["index"] == 1


@pytest.mark.parametrize("hosts", [HOSTS[1:], HOSTS[1:2]])
def test_multi_worker_mirrored(tmp_path: Path, hosts: list[str]) -> None:
    job = config(tmp_path, MULTI_WORKER, hosts[-1], hosts)
    (script,) = multi_worker.processes(job, COMMAND, environment(job))
    assert script.argv == ("python", "train.py", "--epochs", "3")
    assert json.loads(script.env["TF_CONFIG"]) == {
        "cluster": {"worker": [f"{host}:8890" for host in hosts]},
        "environment": "cloud",
        "task": {"index": len(hosts) - 1, "type": "worker"},
    }


def test_hosts_on_one_machine_have_ports_of_their_own(tmp_path: Path) -> None:
    script, _ = processes(tmp_path, "algo-2", ESTIMATOR, TF_TOOLKIT_LOCAL_PORTS="20000")
    assert json.loads(script.env["TF_CONFIG"])["cluster"] == {
        "master": ["algo-1:20000"],
        "ps": ["algo-1:20001", "algo-2:20005", "algo-3:20009"],
        "worker": ["algo-2:20004", "algo-3:20008"],
    }
    (script,) = processes(tmp_path, "algo-2", MULTI_WORKER, TF_TOOLKIT_LOCAL_PORTS="20000")
    workers = json.loads(script.env["TF_CONFIG"])["cluster"]["worker"]
    assert workers == ["algo-1:20002", "algo-2:20006", "algo-3:20010"]


def test_the_installed_tensorflow_decides_the_shape(tmp_path: Path) -> None:
    script, _ = processes(tmp_path, "algo-1", PARAMETER_SERVER)
    (distribution,) = set(importlib.metadata.packages_distributions()["tensorflow"])
    version = tuple(int(number) for number in importlib.metadata.version(distribution).split(".")[:2])
    assert tasks((script,)) == [("master" if version < (2, 16) else "chief", 0)]


@pytest.mark.parametrize(
    ("name", "version", "first"),
    [
        ("tensorflow", "2.15.1", "master"),
        ("tensorflow-of-somebody", "2.9.0+nv", "master"),
        ("tf-nightly", "2.16.0.dev20240101", "chief"),
        (None, "", "chief"),
    ],
)
def test_any_distribution_that_provides_tensorflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, version: str, first: str
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    if name is not None:
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "top_level.txt").write_text("tensorflow\nthird_party\n")
    libraries = [path for path in sys.path if not path.endswith(("site-packages", "dist-packages"))]
    monkeypatch.setattr(sys, "path", [os.fspath(site), *libraries])
    assert tasks(processes(tmp_path, "algo-1", PARAMETER_SERVER)[:1]) == [(first, 0)]


@pytest.mark.parametrize(
    ("value", "found"), [("both", 'a string ("both")'), ("1", "a number (1)"), ("[]", "a list"), ("true", "a boolean")]
)
def test_a_shape_that_is_none(tmp_path: Path, value: str, found: str) -> None:
    with pytest.raises(JobDescriptionError) as raised:
        processes(tmp_path, "algo-1", {**PARAMETER_SERVER, "sagemaker_parameter_server_mode": value})
    assert str(raised.value).startswith(f"hyperparameters.json: key 'sagemaker_parameter_server_mode': found {found}")
    assert str(raised.value).endswith("expected one of estimator, coordinator")
