"""The SageMaker Python SDK, as it comes from the registry, runs jobs in its local mode on the images."""

from __future__ import annotations

import os
import re
import signal
import socket
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest
from docker_hosts import ESTIMATOR, NEWEST, TENSORFLOWS, image
from local_mode import Ended, LocalMode, unpacked

from conftest import DEADLINE, EXAMPLES, PROGRAMS, s3_client, s3_server, wait_until
from packages import wheel, write_package
from tf_toolkit.environment import script_arguments

pytestmark = pytest.mark.containers

SUMS = PROGRAMS / "containers" / "sums.py"
HOROVOD_SUMS = PROGRAMS / "containers" / "horovod_sums.py"
# When a launcher began, and on which host.
BEGAN = r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d{3} tf-toolkit INFO +read: host (algo-\d)"


def accuracy(ended: Ended) -> float:
    """What one host printed, once; a guess is right one time in ten."""
    (found,) = re.findall(r"test accuracy: ([0-9.]+)", ended.log)
    return float(found)


def job_of_every_kind_of_value(root: Path) -> LocalMode:
    job = LocalMode(root, "single")
    (job.code / "requirements.txt").write_text("small_library\n")
    wheel(job.code / "wheels", "small_library", "3.1")
    return job


def check_every_kind_of_value(ended: Ended, tensorflow: str, given: dict[str, object]) -> None:
    assert ended.error is None
    seen = ended.seen()
    assert seen["hyperparameters"] == given
    assert seen["argv"] == list(script_arguments(given))
    assert seen["channels"] == {"train": ["train.csv"], "test": ["test.csv"]}
    assert (seen["tensorflow"], seen["library"], seen["weight"]) == (tensorflow, "3.1", 0.5)
    assert "1/saved_model.pb" in ended.model and "pwned" not in ended.model
    assert ended.output["success"] == b""


@pytest.mark.parametrize("tensorflow", TENSORFLOWS)
def test_one_host_with_requirements_and_values_of_every_kind(tmp_path: Path, tensorflow: str) -> None:
    with job_of_every_kind_of_value(tmp_path) as job:
        ended = job.run(2, "single", image(tensorflow), tensorflow)

        check_every_kind_of_value(ended, tensorflow, {**ended.hyperparameters, "model_dir": "/opt/ml/shared/model"})


def test_code_that_is_a_package(tmp_path: Path) -> None:
    with LocalMode(tmp_path, "package") as job:
        write_package(job.code, "small_package")

        ended = job.run(2, "package", image(), NEWEST)

        assert ended.error is None
        assert ended.model == {"version": b"7.1"}


@pytest.mark.parametrize(("example", "tensorflow"), [("estimator", ESTIMATOR), ("parameter_server", NEWEST)])
def test_parameter_servers_on_two_hosts(tmp_path: Path, digits: Path, example: str, tensorflow: str) -> None:
    with LocalMode(tmp_path, EXAMPLES / example / "train.py", digits) as job:
        ended = job.run(2, example, image(tensorflow), tensorflow)

        assert ended.error is None
        assert accuracy(ended) > 0.5
        assert "1/saved_model.pb" in ended.model


@pytest.mark.parametrize("tensorflow", TENSORFLOWS)
def test_multi_worker_mirrored_on_two_hosts(tmp_path: Path, digits: Path, tensorflow: str) -> None:
    with LocalMode(tmp_path, EXAMPLES / "multi_worker_mirrored" / "train.py", digits) as job:
        ended = job.run(2, "mirrored", image(tensorflow), tensorflow)

        assert ended.error is None
        assert accuracy(ended) > 0.5
        assert "1/saved_model.pb" in ended.model


@pytest.mark.parametrize("tensorflow", TENSORFLOWS)
def test_mpi_on_two_hosts_with_two_processes_on_each(tmp_path: Path, tensorflow: str) -> None:
    with LocalMode(tmp_path, HOROVOD_SUMS) as job:
        ended = job.run(2, "mpi", image(tensorflow), tensorflow)

        assert ended.error is None
        ranks = [ended.seen(f"rank-{number}.json") for number in range(4)]
        assert [rank["sums"] for rank in ranks] == [[1.0 + 2.0 + 3.0 + 4.0]] * 4
        assert [rank["host"][: len("algo-1")] for rank in ranks] == ["algo-1", "algo-1", "algo-2", "algo-2"]


def test_a_first_host_that_starts_30_seconds_late_is_waited_for(tmp_path: Path) -> None:
    with LocalMode(tmp_path, SUMS) as job:
        ended = job.run(2, "first is late", image(), NEWEST)

        assert ended.error is None
        began = {host: datetime.fromisoformat(time) for time, host in re.findall(BEGAN, ended.log)}
        assert began["algo-1"] - began["algo-2"] > timedelta(seconds=25)
        assert [ended.seen(f"rank-{number}.json")["sum"] for number in range(4)] == [10] * 4


def test_a_script_that_fails(tmp_path: Path) -> None:
    with LocalMode(tmp_path, PROGRAMS / "failures" / "exit_status.py") as job:
        ended = job.run(2, "fails", image(), NEWEST)

        assert ended.error is not None and ended.error.endswith("exited with code: 3")
        assert ended.headline.startswith("user code: dataset is empty")
        assert ended.headline in ended.log
        assert "success" not in ended.output


@pytest.mark.parametrize("failing", [0, 1], ids=["first", "second"])
def test_a_host_that_fails_when_the_other_is_done(tmp_path: Path, failing: int) -> None:
    with LocalMode(tmp_path, "hosts") as job:
        ended = job.run(2, f"{('first', 'second')[failing]} fails", image(), NEWEST)

        assert ended.error is not None and ended.error.endswith("exited with code: 1")
        # The same in the failure file of both hosts, of which the SDK keeps one.
        assert ended.headline.startswith(f"user code: ValueError: host {failing} is bad (train.py, line ")
        assert "success" not in ended.output
        assert set(ended.model) == {f"part-{1 - failing}"}
        assert {"data/log-0.txt", "data/log-1.txt"} <= set(ended.output)


def test_a_host_that_takes_longer_than_the_other(tmp_path: Path) -> None:
    with LocalMode(tmp_path, "hosts") as job:
        ended = job.run(2, "second is slow", image(), NEWEST)

        assert ended.error is None
        assert ended.model == {"part-0": b"trained", "part-1": b"trained"}


def test_an_interrupt_lets_the_script_save(tmp_path: Path) -> None:
    with LocalMode(tmp_path, "stopped") as job:
        client = job.start(2, "stopped", image(), NEWEST)
        wait_until(lambda: "| training" in job.log or client.poll() is not None, "the script trains")
        # As a terminal does, and twice would be a KILL.
        os.killpg(client.pid, signal.SIGINT)
        client.wait(DEADLINE)

        wait_until(lambda: all(container.status == "exited" for container in job.containers()), "the container ends")
        # The SDK itself does not wait for it, but leaves the folder that it mounted.
        (checkpoint,) = (tmp_path / "tmp").glob("*/model/checkpoint")
        assert checkpoint.read_text() == "saved"


def test_code_with_dependencies_and_results_in_s3(tmp_path: Path) -> None:
    library = tmp_path / "library" / "__init__.py"
    library.parent.mkdir()
    library.write_text("word = 'from the library'\n")
    # This machine's address on Docker's own bridge, where containers of any network reach it.
    addresses = [entry.address for entry in psutil.net_if_addrs()["docker0"] if entry.family == socket.AF_INET]
    with s3_server(addresses[0]) as url, LocalMode(tmp_path, "dependencies") as job:
        s3 = s3_client(url)
        s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})

        ended = job.run(2, "s3", image(), NEWEST, offline=False, environ={"AWS_ENDPOINT_URL": url})

        assert ended.error is None
        keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket="bucket")["Contents"]]
        (model,) = [key for key in keys if key.endswith("/model.tar.gz")]
        s3.download_file("bucket", model, str(tmp_path / "model.tar.gz"))
        assert unpacked(tmp_path / "model.tar.gz") == {"word": b"from the library"}


def test_version_3_one_host_with_requirements_and_values_of_every_kind(tmp_path: Path) -> None:
    with job_of_every_kind_of_value(tmp_path) as job:
        ended = job.run(3, "single", image())

        check_every_kind_of_value(ended, NEWEST, ended.hyperparameters)


def test_version_3_parameter_servers_on_two_hosts(tmp_path: Path, digits: Path) -> None:
    with LocalMode(tmp_path, EXAMPLES / "parameter_server" / "train.py", digits) as job:
        ended = job.run(3, "parameter_server", image())

        assert ended.error is None
        assert accuracy(ended) > 0.5
        assert "1/saved_model.pb" in ended.model


def test_version_3_mpi_on_two_hosts_over_an_interface_that_they_do_not_have(tmp_path: Path) -> None:
    with LocalMode(tmp_path, SUMS) as job:
        ended = job.run(3, "mpi", image())

        assert ended.error is None
        assert [ended.seen(f"rank-{number}.json")["sum"] for number in range(4)] == [10] * 4
        (warning,) = [line for line in ended.log.splitlines() if "ethwe" in line]
        assert " WARNING " in warning and "eth0" in warning


def test_version_3_a_script_that_fails(tmp_path: Path) -> None:
    with LocalMode(tmp_path, PROGRAMS / "failures" / "exit_status.py") as job:
        ended = job.run(3, "fails", image())

        assert ended.error is not None and ended.error.endswith("exited with code: 3")
        assert ended.headline.startswith("user code: dataset is empty")
        assert ended.headline in ended.log
