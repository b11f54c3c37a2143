"""TF_CONFIG: the text that TensorFlow reads, and what a server makes of it."""

from __future__ import annotations

import json

import pytest

from tf_toolkit import tf_config
from tf_toolkit.errors import JobDescriptionError

CLUSTER = {"chief": ["algo-1:2222"], "ps": ["algo-1:2223", "algo-2:2223"], "worker": ["algo-2:2222"]}


def test_the_text_is_that_of_every_toolkit_of_the_contract() -> None:
    cluster = {"master": ["algo-1:2222"], "ps": ["algo-1:2223", "algo-2:2223"], "worker": ["algo-2:2222"]}
    assert tf_config.write(cluster, "worker", 0) == (
        '{"cluster": {"master": ["algo-1:2222"], "ps": ["algo-1:2223", "algo-2:2223"], "worker": ["algo-2:2222"]}, '
        '"environment": "cloud", "task": {"index": 0, "type": "worker"}}'
    )


def test_a_server_finds_its_task() -> None:
    task = tf_config.read(tf_config.write(CLUSTER, "ps", 1))
    assert (task.job, task.number, task.address, task.port) == ("ps", 1, "algo-2:2223", 2223)
    assert task.cluster == CLUSTER


def with_task(**task: object) -> str:
    return json.dumps({"cluster": {**CLUSTER, "odd": ["algo-1", ":80", "algo-1:x", "algo-1:0"]}, "task": task})


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "is not set"),
        ("", "is not set"),
        ("{", "is not JSON"),
        ("[]", "names no cluster with a task"),
        ("{}", "names no cluster with a task"),
        (json.dumps({"cluster": CLUSTER}), "names no cluster with a task"),
        (json.dumps({"cluster": [], "task": {"type": "ps", "index": 0}}), "names no cluster with a task"),
        (json.dumps({"cluster": {"ps": None}, "task": {"type": "ps", "index": 0}}), "names no cluster with a task"),
        (with_task(type="ps", index="first"), "names no cluster with a task"),
        (with_task(type="ps", index=2), "names a task that its cluster has not, ps 2"),
        (with_task(type="ps", index=-1), "names a task that its cluster has not, ps -1"),
        (with_task(type="evaluator", index=0), "names a task that its cluster has not, evaluator 0"),
        (with_task(type="odd", index=0), "has 'algo-1' for its own address"),
        (with_task(type="odd", index=1), "has ':80' for its own address"),
        (with_task(type="odd", index=2), "has 'algo-1:x' for its own address"),
        (with_task(type="odd", index=3), "has 'algo-1:0' for its own address"),
    ],
)
def test_a_text_that_names_no_server(text: str | None, what: str) -> None:
    with pytest.raises(JobDescriptionError) as raised:
        tf_config.read(text)
    assert str(raised.value).startswith(f"TF_CONFIG {what}")
    assert "\n" not in str(raised.value)
