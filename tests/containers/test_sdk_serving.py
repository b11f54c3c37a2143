"""The SageMaker Python SDK, as it comes from the registry, has the images serve models in its local mode."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from docker_hosts import ESTIMATOR, NEWEST, image
from local_mode import JOB_DEADLINE, Client

from conftest import PROGRAMS, s3_client
from hosts import free_ports
from packages import wheel

pytestmark = pytest.mark.containers

LISTINGS = PROGRAMS / "serving" / "handlers"
SERVING = PROGRAMS / "clients" / "serving"
MODELS = ("half_plus_three", "half_plus_two")
ROW = "1.0,2.0,5.0\n"
Y = [3.5, 4.0, 5.5]


class Endpoints(Client):
    """A client that deploys models, and what it was answered."""

    def pack(self, saved_models: Path) -> None:
        """The archive of models, as training leaves it."""
        (self.root / "model").mkdir()
        with tarfile.open(self.root / "model" / "model.tar.gz", "w:gz") as archive:
            for name in MODELS:
                archive.add(saved_models / name, name)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, case: str, tensorflow: str = NEWEST, s3_port: int | None = None) -> dict[str, Any]:
        """Run a case of tests/clients/sdk2_serving.py to its end; what it was answered."""
        port = free_ports(1)
        ports = [port, s3_port] if s3_port else [port]
        environ = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}"} if s3_port else {}
        client = self.begin(2, "sdk2_serving.py", case, image(tensorflow), str(port), ports=ports, environ=environ)
        assert client.wait(JOB_DEADLINE) == 0, self.log
        # Each was stopped by the SDK, and ended well; but one that compose, which the SDK may signal twice, has killed.
        assert {container.wait()["StatusCode"] for container in self.containers()} <= {0, 137}
        answers: dict[str, Any] = json.loads((self.root / "answers.json").read_text())
        return answers

    def output(self, name: str) -> Mapping[str, str]:
        """The files that a batch transform wrote."""
        return {path.name: path.read_text() for path in (self.root / name).rglob("*") if path.is_file()}


def test_every_way_to_ask(tmp_path: Path, saved_models: Path) -> None:
    with Endpoints(tmp_path) as client:
        client.pack(saved_models)

        answers = client.run("models")

        one, two = {"predictions": [Y]}, {"predictions": [Y] * 2}
        assert answers == {
            "instances": {"predictions": Y},
            "many instances": {"predictions": [Y] * 3},
            "inputs": {"outputs": Y},
            "rows": two,
            "list": one,
            "named": one,
            "value": {"predictions": [3.5]},
            "array": two,
            "regress": {"results": [3.5, 4.0]},
            "classify": {"results": [[["zero", 3.5], ["one", 3.5]], [["zero", 4.0], ["one", 4.0]]]},
            "csv text": {"predictions": [Y] * 3},
            "csv list": one,
            "csv rows": two,
            "csv array": two,
            "lines text": {"predictions": [Y] * 3},
            "lines": {"predictions": [Y] * 3},
            "npy": [Y] * 2,
            "csv answer": [["3.5", "4.0", "5.5"]] * 2,
            "lines answer": [Y] * 2,
            "bytes": '{"predictions":[[3.5,4.0,5.5]]}',
            "model": {"predictions": [2.5, 3.0, 4.5]},
            "version": {"predictions": [2.5, 3.0, 4.5]},
            "version that is not there": {"error": "Servable not found for request: Specific(half_plus_three, 7)"},
            "attributes": {"predictions": [2.5, 3.0, 4.5]},
            "regress of a model": {"results": [2.5, 3.0]},
            "wrong": {"error": answers["wrong"]["error"]},
        }
        assert answers["wrong"]["error"].startswith("Failed to process element: 0 of 'instances' list.")
        assert "without effect in this server: SAGEMAKER_INFERENCE_ACCELERATOR_PRESENT" in client.log


def test_code_in_the_archive_with_requirements(tmp_path: Path, saved_models: Path, s3_url: str) -> None:
    with Endpoints(tmp_path) as client:
        client.pack(saved_models)
        listing = (LISTINGS / "single.py").read_text()
        client.write("code/inference.py", f"import small_library\n{listing}")
        client.write("requirements.txt", "small_library\n")
        wheel(tmp_path / "wheels", "small_library", "3.1")
        s3 = s3_client(s3_url)
        s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        s3.put_object(Bucket="bucket", Key="examples/a.csv", Body=ROW.encode())

        answers = client.run("handlers", s3_port=int(s3_url.rpartition(":")[2]))

        predictions = {"predictions": Y}
        assert answers["json"] == answers["csv"] == predictions
        assert answers["other"] == {"error": "unsupported content type image/png"}
        assert answers["wrong"]["error"].startswith("Failed to process element: 0 of 'instances' list.")
        assert answers["model"] == {"predictions": [2.5, 3.0, 4.5]}
        (key,) = [entry["Key"] for entry in s3.list_objects_v2(Bucket="bucket", Prefix="results/")["Contents"]]
        assert key.endswith("/a.csv.out")
        assert json.loads(s3.get_object(Bucket="bucket", Key=key)["Body"].read()) == predictions


def test_a_program_of_another_name(tmp_path: Path, saved_models: Path) -> None:
    with Endpoints(tmp_path) as client:
        client.pack(saved_models)
        client.write("code/lib/prices.py", "PRICE = 7\n")
        shutil.copy(SERVING / "serving.py", tmp_path / "code")
        before = sorted((tmp_path / "code").rglob("*"))

        answers = client.run("program")

        assert answers == {
            "model_name": "half_plus_three",
            "model_version": "1",
            "method": "predict",
            "rest_uri": "http://localhost:8501/v1/models/half_plus_three:predict",
            "grpc_port": "9000",
            "custom_attributes": "tfs-method=predict,mine=1",
            "request_content_type": "application/json",
            "accept_header": "*/*",
            "content_length": len("[1.0, 2.0, 5.0]"),
            "timeout": 60,
            "program": "serving.py",
            "price": 7,
            "y": Y,
        }
        # The container has the user's own folder.
        assert sorted((tmp_path / "code").rglob("*")) == before


def test_batch_transforms(tmp_path: Path, saved_models: Path) -> None:
    with Endpoints(tmp_path) as client:
        client.pack(saved_models)
        count = 100_000
        client.write("in/documented/a.csv", ROW * 2)
        client.write("in/documented/b.csv", ROW)
        client.write("in/many/a.csv", "".join(f"{number}.0,2.0\n" for number in range(count)))
        client.write("in/single/a.jsonl", "[1.0, 2.0, 5.0]\n1.0\n")
        client.write("in/whole/a.json", '{"instances": [\n1.0,\n2.0]}')

        client.run("transforms")

        out = client.output("out/documented")
        assert {name: json.loads(text) for name, text in out.items()} == {
            "a.csv.out": {"predictions": [Y] * 2},
            "b.csv.out": {"predictions": [Y]},
        }
        # More than fits into one request; a line for each line.
        lines = client.output("out/many")["a.csv.out"].splitlines()
        assert lines == [f"{0.5 * number + 3.0},4.0" for number in range(count)]
        answers = client.output("out/single")["a.jsonl.out"].splitlines()
        assert list(map(json.loads, answers)) == [{"predictions": [Y]}, {"predictions": [3.5]}]
        assert json.loads(client.output("out/whole")["a.json.out"]) == {"predictions": [3.5, 4.0]}


def test_what_an_estimator_has_trained(tmp_path: Path, s3_url: str) -> None:
    with Endpoints(tmp_path) as client:
        client.write("code/train.py", (SERVING / "train.py").read_text())
        client.write("train/train.csv", "".join(f"{x / 8},{x / 16 + 3}\n" for x in range(-8, 9)))
        client.write("in/a.csv", "1.0\n2.0\n5.0\n")

        answers = client.run("trained", ESTIMATOR, s3_port=int(s3_url.rpartition(":")[2]))

        assert answers["instances"]["predictions"] == pytest.approx(Y, abs=0.01)
        lines = client.output("out")["a.csv.out"].splitlines()
        assert list(map(float, lines)) == answers["instances"]["predictions"]
