"""SM_* variables and script arguments, byte for byte as the contract says."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from conftest import Job
from tf_toolkit import environment
from tf_toolkit.config import read_config
from tf_toolkit.contract import Paths
from tf_toolkit.environment import Environment, build_environment, encode, fit, script_arguments
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.hardware import Hardware
from tf_toolkit.process import Command, ProcessSpec

HARDWARE = Hardware(cpus=4, gpus=2, neurons=0, warnings=())


def describe(job: Job, **environ: str) -> Environment:
    paths = Paths(job.root)
    return build_environment(read_config(paths, environ), HARDWARE, paths, environ)


@pytest.mark.parametrize(
    ("hyperparameters", "arguments"),
    [
        ({}, ()),
        ({"b": 1, "a": 2, "B": 3}, ("-B", "3", "-a", "2", "-b", "1")),
        ({"lr": 0.1, "x": "y"}, ("--lr", "0.1", "-x", "y")),
        ({"batch-size": 1, "batch_size": 2}, ("--batch-size", "1", "--batch_size", "2")),
        ({"": 5}, ("", "5")),
        ({"é": 1, "名前": 2}, ("-é", "1", "--名前", "2")),
        ({"flag": True, "off": False}, ("--flag", "True", "--off", "False")),
        ({"none": None}, ("--none", "")),
        ({"big": 1e20, "small": 1e-05, "nan": float("nan")}, ("--big", "1e+20", "--nan", "nan", "--small", "1e-05")),
        ({"l": [1, "2", ["x y"]]}, ("-l", "[1, '2', ['x y']]")),
        ({"m": {"b": [1, 3], "a": {"c": None}}}, ("-m", "a={'c': None},b=[1, 3]")),
        ({"m": {}}, ("-m", "")),
        ({"text": "a 'b' \"c\"\n$(touch x) `id` ;|&"}, ("--text", "a 'b' \"c\"\n$(touch x) `id` ;|&")),
    ],
)
def test_script_arguments(hyperparameters: dict[str, Any], arguments: tuple[str, ...]) -> None:
    assert script_arguments(hyperparameters) == arguments


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("text", "text"),
        ("", ""),
        (True, "true"),
        (1.10, "1.1"),
        ([1, "a b", None], '[1,"a b",null]'),
        ({"b": 1, "a": {"d": [], "c": "é"}}, '{"a":{"c":"\\u00e9","d":[]},"b":1}'),
        (("x",), '["x"]'),
    ],
)
def test_encoding(value: object, text: str) -> None:
    assert encode(value) == text


def test_every_variable_of_a_full_job(job: Job) -> None:
    """The whole environment of one job, spelled out."""
    resource = {
        "current_host": "algo-2",
        "hosts": ["algo-2", "algo-1"],
        "current_instance_type": "ml.c5.xlarge",
        "current_group_name": "workers",
        "network_interface_name": "eth1",
        "instance_groups": [
            {"instance_group_name": "workers", "instance_type": "ml.c5.xlarge", "hosts": ["algo-2"]},
            {"instance_group_name": "others", "instance_type": "ml.c5.large", "hosts": ["algo-1"]},
        ],
        "topology": [{"hostName": "algo-1", "capacityUnitId": "u"}],
    }
    channels = {"train": {"TrainingInputMode": "File"}, "a-b": {"ContentType": "text/csv"}}
    job.config("resourceconfig", resource)
    job.config("inputdataconfig", channels)
    job.hyperparameters(
        epochs="2",
        **{"batch-size": "8"},
        layers="[64, 32]",
        opt='{"b": 1, "a": null}',
        note='"x y"',
        nothing="null",
        sagemaker_program='"src/train.py"',
        sagemaker_submit_directory='"s3://b/k"',
        sagemaker_job_name='"n"',
        sagemaker_region='"eu-west-1"',
        sagemaker_mpi_enabled="true",
    )
    root = str(job.root)
    variables = describe(job, TRAINING_JOB_NAME="job-7", PATH="/bin", SM_HP_MP_PARAMETERS="{}").variables
    hps = '{"batch-size":8,"epochs":2,"layers":[64,32],"note":"x y","nothing":null,"opt":{"a":null,"b":1}}'
    args = (
        '["--batch-size","8","--epochs","2","--layers","[64, 32]","--note","x y","--nothing","","--opt","a=None,b=1"]'
    )
    groups = {group["instance_group_name"]: group for group in resource["instance_groups"]}  # type: ignore[index]
    training_env = json.loads(variables["SM_TRAINING_ENV"])
    assert {name: value for name, value in variables.items() if name != "SM_TRAINING_ENV"} == {
        "PATH": "/bin",
        "TRAINING_JOB_NAME": "job-7",
        "SM_HP_MP_PARAMETERS": "{}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "1",
        "S3_USE_HTTPS": "1",
        "S3_REGION": "eu-west-1",
        "CURRENT_HOST": "algo-2",
        "SAGEMAKER_JOB_NAME": "n",
        "SAGEMAKER_REGION": "eu-west-1",
        "SM_HOSTS": '["algo-2","algo-1"]',
        "SM_CURRENT_HOST": "algo-2",
        "SM_NETWORK_INTERFACE_NAME": "eth1",
        "SM_CURRENT_INSTANCE_TYPE": "ml.c5.xlarge",
        "SM_CURRENT_INSTANCE_GROUP": "workers",
        "SM_CURRENT_INSTANCE_GROUP_HOSTS": '["algo-2"]',
        "SM_INSTANCE_GROUPS": '["workers","others"]',
        "SM_INSTANCE_GROUPS_DICT": json.dumps(groups, separators=(",", ":"), sort_keys=True),
        "SM_DISTRIBUTION_INSTANCE_GROUPS": '["workers"]',
        "SM_IS_HETERO": "true",
        "SM_RESOURCE_CONFIG": json.dumps(resource, separators=(",", ":"), sort_keys=True),
        "SM_INPUT_DATA_CONFIG": json.dumps(channels, separators=(",", ":"), sort_keys=True),
        "SM_TOPOLOGY": '[{"capacityUnitId":"u","hostName":"algo-1"}]',
        "SM_CHANNELS": '["a-b","train"]',
        "SM_CHANNEL_TRAIN": f"{root}/input/data/train",
        "SM_CHANNEL_A-B": f"{root}/input/data/a-b",
        "SM_HPS": hps,
        "SM_HP_EPOCHS": "2",
        "SM_HP_BATCH-SIZE": "8",
        "SM_HP_LAYERS": "[64,32]",
        "SM_HP_OPT": '{"a":null,"b":1}',
        "SM_HP_NOTE": "x y",
        "SM_HP_NOTHING": "",
        "SM_FRAMEWORK_PARAMS": '{"sagemaker_mpi_enabled":true}',
        "SM_FRAMEWORK_MODULE": "",
        "SM_USER_ARGS": args,
        "SM_USER_ENTRY_POINT": "src/train.py",
        "SM_MODULE_NAME": "src/train",
        "SM_MODULE_DIR": "s3://b/k",
        "SM_LOG_LEVEL": "20",
        "SM_INPUT_DIR": f"{root}/input",
        "SM_INPUT_CONFIG_DIR": f"{root}/input/config",
        "SM_INPUT_DATA_DIR": f"{root}/input/data",
        "SM_MODEL_DIR": f"{root}/model",
        "SM_OUTPUT_DIR": f"{root}/output",
        "SM_OUTPUT_DATA_DIR": f"{root}/output/data",
        "SM_OUTPUT_INTERMEDIATE_DIR": f"{root}/output/intermediate",
        "SM_OUTPUT_FAILURE": f"{root}/output/failure",
        "SM_NUM_CPUS": "4",
        "SM_NUM_GPUS": "2",
        "SM_NUM_NEURONS": "0",
        "SM_MASTER_ADDR": "algo-2",
        "SM_MASTER_PORT": "7777",
        "SM_HOST_COUNT": "2",
        "SM_CURRENT_HOST_RANK": "0",
    }
    assert training_env == {
        "additional_framework_parameters": {"sagemaker_mpi_enabled": True},
        "channel_input_dirs": {"train": f"{root}/input/data/train", "a-b": f"{root}/input/data/a-b"},
        "current_host": "algo-2",
        "current_instance_group": "workers",
        "current_instance_group_hosts": ["algo-2"],
        "current_instance_type": "ml.c5.xlarge",
        "distribution_hosts": ["algo-2"],
        "distribution_instance_groups": ["workers"],
        "framework_module": None,
        "hosts": ["algo-2", "algo-1"],
        "hyperparameters": json.loads(hps),
        "input_config_dir": f"{root}/input/config",
        "input_data_config": channels,
        "input_dir": f"{root}/input",
        "instance_groups": ["workers", "others"],
        "instance_groups_dict": groups,
        "is_hetero": True,
        "is_master": True,
        "is_modelparallel_enabled": False,
        "is_smddpmprun_installed": False,
        "is_smddprun_installed": False,
        "job_name": "job-7",
        "log_level": 20,
        "master_hostname": "algo-2",
        "model_dir": f"{root}/model",
        "module_dir": "s3://b/k",
        "module_name": "src/train",
        "network_interface_name": "eth1",
        "num_cpus": 4,
        "num_gpus": 2,
        "num_neurons": 0,
        "output_data_dir": f"{root}/output/data",
        "output_dir": f"{root}/output",
        "output_intermediate_dir": f"{root}/output/intermediate",
        "resource_config": resource,
        "topology": [{"hostName": "algo-1", "capacityUnitId": "u"}],
        "user_entry_point": "src/train.py",
    }


def test_what_the_user_set_wins(job: Job) -> None:
    mine = {
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONUNBUFFERED": "",
        "TF_CPP_MIN_LOG_LEVEL": "0",
        "S3_USE_HTTPS": "0",
        "S3_REGION": "mine",
        "AWS_REGION": "us",
    }
    variables = describe(job, **mine).variables
    assert {name: variables[name] for name in mine} == mine


def test_a_job_without_anything(job: Job) -> None:
    variables = describe(job).variables
    assert variables["SM_CURRENT_INSTANCE_GROUP_HOSTS"] == "[]"
    assert variables["SM_INSTANCE_GROUPS_DICT"] == "{}"
    assert variables["SM_MODULE_NAME"] == "None"
    assert variables["SM_USER_ENTRY_POINT"] == ""
    assert "SM_TOPOLOGY" not in variables
    assert json.loads(variables["SM_TRAINING_ENV"])["job_name"] is None


@pytest.mark.parametrize(("text", "enabled"), [(None, None), ("", ""), ("{}", False), ('{"a": 1}', True)])
def test_model_parallel_flag(job: Job, text: str | None, enabled: object) -> None:
    variables = describe(job, **({} if text is None else {"SM_HP_MP_PARAMETERS": text})).variables
    assert json.loads(variables["SM_TRAINING_ENV"])["is_modelparallel_enabled"] == enabled


def test_names_that_collide_in_upper_case(job: Job) -> None:
    job.config("hyperparameters", {"lr": "1", "LR": "2"})
    assert describe(job).variables["SM_HP_LR"] == "2"


@pytest.mark.parametrize(("before", "after"), [(None, "/code"), ("", "/code"), ("/a:/b", "/code:/a:/b")])
def test_python_path_is_the_code_and_what_was_there(before: str | None, after: str) -> None:
    variables = {} if before is None else {"PYTHONPATH": before}
    found = environment.command_variables(Command(("x",), "/code", "a/b.py"), variables)
    assert found == {
        "PYTHONPATH": after,
        "SM_SOURCE_DIR": "/code",
        "SM_ENTRY_SCRIPT": "a/b.py",
        "SM_USER_ENTRY_POINT": "a/b.py",
        "SM_MODULE_NAME": "a/b",
    }


def spec(env: dict[str, str], *argv: str) -> ProcessSpec:
    return ProcessSpec("script", argv, env, "/")


def test_a_small_environment_is_left_alone() -> None:
    small = spec({"A": "1", "SM_HPS": "{}"}, "x")
    assert fit(small) == (small, {})


def test_one_variable_of_more_than_the_kernel_takes_is_left_out() -> None:
    page = os.sysconf("SC_PAGESIZE")
    exact = "x" * (32 * page - len("SM_HPS=") - 1)
    assert fit(spec({"SM_HPS": exact}, "x"))[1] == {}
    fitted, left_out = fit(spec({"SM_HPS": exact + "x", "SM_HP_A": "1", "HOME": "/"}, "x"))
    assert left_out == {"SM_HPS": exact + "x"}
    assert fitted.env == {"SM_HP_A": "1", "HOME": "/"}


def test_many_variables_leave_out_the_largest() -> None:
    env = {f"SM_HP_{number}": "x" * 100_000 for number in range(100)} | {"SM_HP_SMALL": "1"}
    fitted, left_out = fit(spec(env, "x"))
    assert "SM_HP_SMALL" in fitted.env
    assert left_out
    assert {**fitted.env, **left_out} == env
    assert sum(len(value) for value in fitted.env.values()) < os.sysconf("SC_ARG_MAX")


def test_an_argument_that_no_process_can_take_names_its_hyperparameter() -> None:
    with pytest.raises(JobDescriptionError, match="--weights"):
        fit(spec({}, "python", "--weights", "x" * 200_000))


def test_arguments_that_are_too_many() -> None:
    with pytest.raises(JobDescriptionError, match="more than the kernel takes"):
        fit(spec({}, *["x" * 100_000] * 100))
