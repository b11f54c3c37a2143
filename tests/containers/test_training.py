"""Real training in images, on the newest TensorFlow and on the last with tf.estimator: one host, and each strategy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docker.types import Mount
from docker_hosts import ESTIMATOR, MIRRORED, NEWEST, PARAMETER_SERVERS, Hosts, image

from conftest import DEADLINE, EXAMPLES

pytestmark = pytest.mark.containers

ONE = ("algo-1",)
SHARED = {"steps": 200, "model_dir": "/opt/ml/shared/model"}
TWO = ("algo-1", "algo-2")
# Several processes that each import TensorFlow, and the examples' own waits for one another.
JOB_DEADLINE = 10 * DEADLINE


@pytest.mark.parametrize(
    ("example", "parameters", "names", "tensorflow"),
    [
        # Where nobody names other workers, the strategy is that of one host.
        pytest.param("multi_worker_mirrored", {"epochs": 3}, ONE, NEWEST, id="one-host-newest"),
        pytest.param("multi_worker_mirrored", {"epochs": 3}, ONE, ESTIMATOR, id="one-host-2.15"),
        pytest.param("multi_worker_mirrored", {"epochs": 3, **MIRRORED}, TWO, NEWEST, id="mirrored-newest"),
        pytest.param("multi_worker_mirrored", {"epochs": 3, **MIRRORED}, TWO, ESTIMATOR, id="mirrored-2.15"),
        pytest.param("parameter_server", {"epochs": 3, **PARAMETER_SERVERS}, TWO, NEWEST, id="coordinator-newest"),
        # Its checkpoints are written by every server, so they need a place that all share, such as S3.
        pytest.param("estimator", SHARED | PARAMETER_SERVERS, TWO, ESTIMATOR, id="estimator-2.15"),
    ],
)
def test_an_example_trains_a_model(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    digits: Path,
    example: str,
    parameters: dict[str, object],
    names: tuple[str, ...],
    tensorflow: str,
) -> None:
    with Hosts(tmp_path, image(tensorflow)) as hosts:
        hosts.describe(str(EXAMPLES / example / "train.py"), parameters, names)
        hosts.channels(digits)
        shared = Mount("/opt/ml/shared", str(tmp_path_factory.mktemp("shared")), type="bind")
        hosts.start(mounts=[shared])

        assert hosts.ends(JOB_DEADLINE) == dict.fromkeys(names, 0)
        output = "".join(hosts[name].output() for name in names)
        # Once, by the host that saves the model. A guess is right one time in ten.
        (accuracy,) = re.findall(r"test accuracy: ([0-9.]+)", output)
        assert float(accuracy) > 0.5
        assert all(hosts[name].succeeded for name in names)
        assert (hosts["algo-1"].tree.root / "model" / "1" / "saved_model.pb").is_file()
