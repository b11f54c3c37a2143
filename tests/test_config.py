"""Configuration: what is decoded, what is refused, and with which words."""

from __future__ import annotations

import json
import math
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Job
from tf_toolkit.config import JobConfig, decode, read_config
from tf_toolkit.contract import Paths
from tf_toolkit.errors import JobDescriptionError

FILES = ("hyperparameters", "resourceconfig", "inputdataconfig")


def read(job: Job, **environ: str) -> JobConfig:
    return read_config(Paths(job.root), environ)


def refusal(job: Job, **environ: str) -> str:
    with pytest.raises(JobDescriptionError) as caught:
        read(job, **environ)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("1.10", 1.1),
        ("1e-3", 0.001),
        ("-0", 0),
        ('"10"', "10"),
        ('"ab"', "ab"),
        ("true", True),
        ("false", False),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ('{"a": {"b": 1}}', {"a": {"b": 1}}),
        ("Infinity", math.inf),
        (" 7 ", 7),
        ('"\\u00e9"', "é"),
        # Not JSON, so text.
        ("True", "True"),
        ("None", "None"),
        ("007", "007"),
        ("+5", "+5"),
        ("0x10", "0x10"),
        ("", ""),
        (" ", " "),
        ("ml.m5.large", "ml.m5.large"),
        ("'quoted'", "'quoted'"),
        ("{a: 1}", "{a: 1}"),
        ("[1, 2", "[1, 2"),
        ("$(touch x)", "$(touch x)"),
        ("9" * 5000, "9" * 5000),
        ("[" * 2500, "[" * 2500),
        ("[" * 400 + "]" * 400, "[" * 400 + "]" * 400),
        # Not a string in the file, so kept.
        (5, 5),
        (None, None),
        ([1], [1]),
    ],
)
def test_decode(text: object, value: object) -> None:
    decoded = decode(text)
    assert decoded == value
    assert type(decoded) is type(value)


def test_decode_nan() -> None:
    assert math.isnan(decode("NaN"))


def test_missing_tree_is_one_host_named_by_the_machine(tmp_path: Path) -> None:
    config = read_config(Paths(tmp_path / "nowhere"), {})
    assert config.hosts == (socket.gethostname(),)
    assert config.current_host == socket.gethostname()
    assert config.channels == ()
    assert config.hyperparameters == {}
    assert (config.instance_type, config.network_interface) == ("local", "eth0")
    assert config.submit_directory == str(tmp_path / "nowhere" / "code")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("present", FILES)
def test_partial_tree(job: Job, present: str) -> None:
    content = {"current_host": "algo-1", "hosts": ["algo-1"]} if present == "resourceconfig" else {}
    job.config(present, content)
    assert len(read(job).hosts) == 1


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b'{"a": ', "not JSON"),
        (b"[1, 2]", "found a list, expected a JSON object"),
        (b'"text"', "found a string"),
        (b"null", "found null"),
        (b"3", "found a number"),
        ('{"é": "1"}'.encode("latin-1"), "not UTF-8"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b"\0\0\0\0", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_file_is_named(job: Job, name: str, content: bytes, words: str) -> None:
    job.config(name, content)
    message = refusal(job)
    assert f"{name}.json" in message
    assert words in message


def test_byte_order_mark_is_no_fault(job: Job) -> None:
    job.config("hyperparameters", '\ufeff{"a": "1"}'.encode())
    assert read(job).hyperparameters == {"a": 1}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "loop", "parent"])
def test_what_is_no_file_is_named_and_never_waited_for(job: Job, name: str, kind: str) -> None:
    path = job.root / "input" / "config" / f"{name}.json"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.parent.rmdir()
        path.parent.write_text("a file where a directory should be")
    assert str(path.parent) in refusal(job)


@pytest.mark.parametrize(
    ("resource", "words"),
    [
        ({"hosts": ["a"]}, "key 'current_host'"),
        ({"current_host": "a"}, "key 'hosts': found nothing, expected a list of strings"),
        ({"current_host": "a", "hosts": "a"}, "key 'hosts': found a string (\"a\"), expected a list"),
        ({"current_host": "a", "hosts": ["a", 2]}, "found a list with a number (2) in it"),
        ({"current_host": "a", "hosts": ["b"]}, "key 'hosts': found a list without the current host 'a'"),
        ({"current_host": "a", "hosts": ["a", "a"]}, "a name twice"),
        ({"current_host": 1, "hosts": ["a"]}, "key 'current_host': found a number (1), expected a string"),
        ({"current_host": "a", "hosts": ["a"], "network_interface_name": []}, "'network_interface_name': found a list"),
        ({"current_host": "a", "hosts": ["a"], "current_instance_type": None}, "'current_instance_type': found null"),
        ({"current_host": "a", "hosts": ["a"], "topology": {}}, "'topology': found an object, expected a list"),
        ({"current_host": "a", "hosts": ["a"], "instance_groups": [1]}, "'instance_groups'"),
        (
            {"current_host": "a", "hosts": ["a"], "instance_groups": [{}]},
            "instance_groups[0]: key 'instance_group_name'",
        ),
        (
            {"current_host": "a", "hosts": ["a"], "instance_groups": [{"instance_group_name": "g", "hosts": "a"}]},
            "instance_groups[0]: key 'hosts': found a string",
        ),
    ],
)
def test_a_wrong_resource_config_names_the_key(job: Job, resource: object, words: str) -> None:
    job.config("resourceconfig", resource)
    message = refusal(job)
    assert "resourceconfig.json" in message
    assert words in message


def test_unknown_keys_are_ignored(job: Job) -> None:
    job.config("resourceconfig", {"current_host": "a", "hosts": ["a"], "new_thing": {"x": [1]}})
    job.config("inputdataconfig", {"train": {"TrainingInputMode": "File", "NewThing": 7}})
    assert read(job).channels == ("train",)


@pytest.mark.parametrize("channel", ["a=b", "a/b", "..", "", "a\0b"])
def test_impossible_channel_names(job: Job, channel: str) -> None:
    job.config("inputdataconfig", {channel: {}})
    assert "inputdataconfig.json" in refusal(job)


def test_a_channel_that_is_no_object(job: Job) -> None:
    job.config("inputdataconfig", {"train": "s3://x"})
    assert "key 'train': found a string" in refusal(job)


@pytest.mark.parametrize(
    ("hyperparameters", "words"),
    [
        ({"a=b": "1"}, "key 'a=b'"),
        ({"a": "x\0y"}, "NUL"),
        ({"a\0b": "x"}, "NUL"),
        ({"a": '["x\\u0000"]'}, "NUL"),
        ({"a": '"\\ud800"'}, "that utf-8 cannot encode"),
        ({"sagemaker_program": "7"}, "key 'sagemaker_program': found a number (7), expected a string"),
        ({"sagemaker_submit_directory": "[]"}, "key 'sagemaker_submit_directory': found a list"),
        ({"sagemaker_mpi_enabled": "maybe"}, "key 'sagemaker_mpi_enabled'"),
        ({"sagemaker_mkl_enabled": "2"}, "key 'sagemaker_mkl_enabled'"),
        ({"sagemaker_distribution_instance_groups": '"g"'}, "expected a list"),
    ],
)
def test_hyperparameters_that_cannot_be(job: Job, hyperparameters: dict[str, str], words: str) -> None:
    job.config("hyperparameters", hyperparameters)
    message = refusal(job)
    assert "hyperparameters.json" in message
    assert words in message


@pytest.mark.parametrize(
    "name", ["../x.py", "/etc/passwd", "-c", "a//b.py", "./x.py", "a/../b.py", "x.py\n", "a b.py", "$(x).py", "é.py"]
)
def test_entry_points_that_leave_the_code_or_look_like_options(job: Job, name: str) -> None:
    job.hyperparameters(sagemaker_program=json.dumps(name))
    assert "sagemaker_program" in refusal(job)
    assert "SAGEMAKER_PROGRAM" in refusal(job, SAGEMAKER_PROGRAM=name)


def test_the_split_of_hyperparameters(job: Job) -> None:
    job.hyperparameters(
        sagemaker_program='"train.py"',
        sagemaker_submit_directory='"s3://b/k.tar.gz"',
        sagemaker_region='"eu-west-1"',
        sagemaker_job_name='"name"',
        sagemaker_enable_cloudwatch_metrics="false",
        default_user_module_name="x",
        _tuning_objective_metric="acc",
        sagemaker_s3_output="s3://out",
        sagemaker_container_log_level="10",
        sagemaker_custom='{"a": 1}',
        SAGEMAKER_upper="1",
        sagemakerless="2",
        lr="0.1",
    )
    config = read(job)
    assert config.hyperparameters == {"SAGEMAKER_upper": 1, "sagemakerless": 2, "lr": 0.1}
    assert config.framework_parameters == {"sagemaker_custom": {"a": 1}}
    assert (config.entry_point, config.submit_directory, config.region) == ("train.py", "s3://b/k.tar.gz", "eu-west-1")
    assert config.log_level == 10


def test_variables_win_over_what_the_sdk_always_sends(job: Job) -> None:
    job.hyperparameters(
        sagemaker_program='"a.py"', sagemaker_submit_directory='"/a"', sagemaker_container_log_level="20"
    )
    config = read(
        job, SAGEMAKER_PROGRAM="b.py", SAGEMAKER_SUBMIT_DIRECTORY="/b", SAGEMAKER_CONTAINER_LOG_LEVEL="WARNING"
    )
    assert (config.entry_point, config.submit_directory, config.log_level) == ("b.py", "/b", 30)
    assert read(job, SM_LOG_LEVEL="error").log_level == 40


@pytest.mark.parametrize(
    ("level", "number"), [("20", 20), ('"20"', 20), ('"INFO"', 20), ("debug", 10), ("30", 30), ("null", 20)]
)
def test_log_levels(job: Job, level: str, number: int) -> None:
    job.hyperparameters(sagemaker_container_log_level=level)
    assert read(job).log_level == number


@pytest.mark.parametrize("level", ["loud", "-1", "1.5", "[]", "99999", '""'])
def test_a_log_level_that_is_none_costs_a_warning_not_the_job(job: Job, level: str) -> None:
    job.hyperparameters(sagemaker_container_log_level=level)
    config = read(job)
    assert config.log_level == 20
    assert len(config.warnings) == (level != '""')


GROUPS = {
    "current_host": "algo-2",
    "current_group_name": "gpu",
    "current_instance_type": "ml.p4d.24xlarge",
    "hosts": ["algo-1", "algo-2", "algo-3"],
    "instance_groups": [
        {"instance_group_name": "cpu", "instance_type": "ml.c5.xlarge", "hosts": ["algo-1"]},
        {"instance_group_name": "gpu", "instance_type": "ml.p4d.24xlarge", "hosts": ["algo-3", "algo-2"]},
    ],
}


@pytest.mark.parametrize(
    ("hyperparameters", "groups", "hosts", "master"),
    [
        ({}, (), (), "algo-1"),
        ({"sagemaker_mpi_enabled": "true"}, ("gpu",), ("algo-3", "algo-2"), "algo-3"),
        ({"sagemaker_distribution_instance_groups": '["cpu"]'}, ("cpu",), ("algo-1",), "algo-1"),
        (
            {"sagemaker_distribution_instance_groups": '["gpu", "cpu"]'},
            ("gpu", "cpu"),
            ("algo-1", "algo-3", "algo-2"),
            "algo-1",
        ),
    ],
)
def test_heterogeneous_clusters(
    job: Job, hyperparameters: dict[str, str], groups: tuple[str], hosts: tuple[str], master: str
) -> None:
    job.config("resourceconfig", GROUPS)
    job.config("hyperparameters", hyperparameters)
    config = read(job)
    assert config.group_hosts == ("algo-3", "algo-2")
    assert (config.distribution_groups, config.distribution_hosts, config.master) == (groups, hosts, master)


def test_a_distribution_group_that_is_not_there(job: Job) -> None:
    job.config("resourceconfig", GROUPS)
    job.config("hyperparameters", {"sagemaker_distribution_instance_groups": '["tpu"]'})
    assert "'tpu'" in refusal(job)


@pytest.mark.parametrize(
    ("model_dir", "name", "result"),
    [
        ('"s3://b/p"', "job-1", "s3://b/p/job-1/model"),
        ('"s3://b/p/"', "job-1", "s3://b/p/job-1/model"),
        ('"/opt/ml/model"', "job-1", "/opt/ml/model"),
        ('"s3://b/p"', None, "s3://b/p"),
    ],
)
def test_jobs_of_a_tuner_do_not_share_a_model_dir(job: Job, model_dir: str, name: str | None, result: str) -> None:
    job.hyperparameters(model_dir=model_dir, _tuning_objective_metric="acc")
    config = read(job, **({"TRAINING_JOB_NAME": name} if name else {}))
    assert config.hyperparameters["model_dir"] == result


def test_a_tuner_without_model_dir_gets_none(job: Job) -> None:
    job.hyperparameters(_tuning_objective_metric="acc")
    assert read(job, TRAINING_JOB_NAME="j").hyperparameters == {}


@pytest.mark.parametrize("module", ["nocolon", "a:b:c", "a b:c", ":f", "m:"])
def test_a_training_module_must_name_a_function(job: Job, module: str) -> None:
    assert "SAGEMAKER_TRAINING_MODULE" in refusal(job, SAGEMAKER_TRAINING_MODULE=module)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    [
        "current_host",
        "hosts",
        "instance_groups",
        "topology",
        "current_group_name",
        "sagemaker_program",
        "sagemaker_mpi_enabled",
    ]
) | st.text(max_size=8)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.dictionaries(keys, json_values, max_size=5), name=st.sampled_from(FILES))
def test_any_json_is_read_or_refused_in_one_line(job: Job, name: str, content: dict[str, Any]) -> None:
    for other in FILES:
        job.config(other, content if other == name else {})
    try:
        config = read(job)
    except JobDescriptionError as error:
        assert f"{name}.json" in str(error)
        assert "\n" not in str(error)
    else:
        assert config.current_host in config.hosts


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60), name=st.sampled_from(FILES))
def test_any_bytes_are_read_or_refused_in_one_line(job: Job, name: str, content: bytes) -> None:
    for other in FILES:
        job.config(other, content if other == name else b"{}")
    try:
        read(job)
    except JobDescriptionError as error:
        assert f"{name}.json" in str(error)
        assert "\n" not in str(error)
