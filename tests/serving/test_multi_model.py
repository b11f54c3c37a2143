"""Models that are loaded and unloaded while the server runs, as the platform asks for it."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import wait_until
from serve_process import JSON, Answer, Server, answer, serving


@pytest.fixture(scope="module")
def shared(saved_models: Path, slow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server") / "ml", {}, SAGEMAKER_MULTI_MODEL="true") as server:
        models = server.root / "models"
        for name in ("half_plus_two", "half_plus_three", "digits"):
            shutil.copytree(saved_models / name, models / name / "model")
        shutil.copytree(slow_model, models / "slow" / "model")
        yield server
        assert server.process.poll() is None


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """With no model loaded, before and after."""
    yield shared
    for model in shared.get("/models").json["models"]:
        assert shared.ask("DELETE", f"/models/{model['modelName']}").status == 200
    assert shared.get("/ping").status == 200


def url(server: Server, name: str) -> str:
    return f"{server.root}/models/{name}/model"


def load(server: Server, name: str, place: str | None = None) -> Answer:
    body = json.dumps({"model_name": name, "url": place or url(server, name)})
    return server.ask("POST", "/models", body, JSON)


def invoke(server: Server, name: str, body: str = "1.0", **headers: str) -> Answer:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return server.ask("POST", f"/models/{name}/invoke", body, {**JSON, **named})


def test_it_is_ready_without_a_model(server: Server) -> None:
    assert server.get("/ping").status == 200
    assert server.get("/models").json == {"models": []}


def test_a_model_is_loaded_listed_asked_and_unloaded(server: Server) -> None:
    assert load(server, "half_plus_two").json == {"success": "Successfully loaded model half_plus_two."}
    assert load(server, "half_plus_three").status == 200
    two = {"modelName": "half_plus_two", "modelUrl": url(server, "half_plus_two")}
    three = {"modelName": "half_plus_three", "modelUrl": url(server, "half_plus_three")}
    assert server.get("/models").json == {"models": [three, two]}
    assert server.get("/models/half_plus_two").json == two
    assert invoke(server, "half_plus_two", '{"instances": [1.0]}').json == {"predictions": [2.5]}
    assert invoke(server, "half_plus_three", '{"instances": [1.0]}').json == {"predictions": [3.5]}
    gone = server.ask("DELETE", "/models/half_plus_two")
    assert (gone.status, gone.json) == (200, {"success": "Successfully unloaded model half_plus_two."})
    assert server.get("/models").json == {"models": [three]}
    assert invoke(server, "half_plus_two").status == 404
    assert load(server, "half_plus_two").status == 200


def test_conversions_and_custom_attributes_are_as_with_one_model(server: Server) -> None:
    assert load(server, "half_plus_two").status == 200
    assert load(server, "half_plus_three").status == 200
    lines = invoke(server, "half_plus_two", "1.0\n3.0\n", Content_Type="text/csv", Accept="text/csv")
    assert lines.body == b"2.5\n3.5"
    assert invoke(server, "half_plus_three", "1.0\n2.0\n5.0", Content_Type="text/csv").json == {
        "predictions": [3.5, 4.0, 5.5]
    }
    attributes = "tfs-model-name=half_plus_three,tfs-model-version=1"
    found = invoke(server, "half_plus_two", '{"instances": [1.0]}', X_Amzn_SageMaker_Custom_Attributes=attributes)
    assert found.json == {"predictions": [2.5]}
    wrong = invoke(server, "half_plus_two", X_Amzn_SageMaker_Custom_Attributes="tfs-model-version=9")
    assert (wrong.status, wrong.error) == (404, "Servable not found for request: Specific(half_plus_two, 9)")
    rest = server.ask("POST", "/v1/models/half_plus_two:predict", '{"instances": [1.0]}')
    assert rest.json == {"predictions": [2.5]}


def test_an_invocation_needs_a_name(server: Server) -> None:
    found = server.invoke("[1.0]")
    assert (found.status, found.error) == (400, "Invocation request does not contain model name.")


def test_a_model_is_loaded_once(server: Server) -> None:
    assert load(server, "digits").status == 200
    again = load(server, "digits")
    assert (again.status, again.error) == (409, "Model digits is already loaded.")


def test_of_two_that_load_one_model_at_once_one_does(server: Server) -> None:
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(load(server, "digits").status)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(statuses) == [200, 409, 409, 409]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/models/none"), ("DELETE", "/models/none"), ("POST", "/models/none/invoke")]
)
def test_a_model_that_is_not_loaded(server: Server, method: str, path: str) -> None:
    found = server.ask(method, path, "[1.0]" if method == "POST" else None, JSON)
    assert (found.status, found.error) == (404, "Model none is not loaded yet.")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("", 400, "JSON Parse error: The document is empty"),
        ("[]", 400, "expected a JSON object with the strings model_name and url"),
        ('{"model_name": "m"}', 400, "expected a JSON object with the strings model_name and url"),
        ('{"model_name": 1, "url": "{root}/models"}', 400, "expected a JSON object"),
        ('{"model_name": "../m", "url": "{root}/models/m"}', 400, "invalid model_name"),
        ('{"model_name": "", "url": "{root}/models/m"}', 400, "invalid model_name"),
        ('{"model_name": "m", "url": "/etc"}', 400, "url is '/etc'; expected a folder below {root}"),
        ('{"model_name": "m", "url": "{root}/../.."}', 400, "url is '{root}/../..'; expected a folder below {root}"),
        ('{"model_name": "m", "url": "{root}/models\\u0000"}', 400, "url is "),
        ('{"model_name": "m", "url": "models/m"}', 400, "url is 'models/m'; expected a folder below {root}"),
        ('{"model_name": "m", "url": "{root}/models/none"}', 404, "Could not find valid base path {root}/models/none"),
    ],
)
def test_what_cannot_be_loaded(server: Server, body: str, status: int, message: str) -> None:
    found = server.ask("POST", "/models", body.replace("{root}", str(server.root)), JSON)
    assert found.status == status
    assert found.error.startswith(message.replace("{root}", str(server.root)))


def test_a_broken_model_leaves_the_others_alone(server: Server) -> None:
    version = Path(url(server, "broken")) / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version / "saved_model.pb").write_bytes(b"this is no protobuf")
    assert load(server, "half_plus_two").status == 200
    found = load(server, "broken")
    assert found.status == 400
    assert str(version) in found.error
    assert server.get("/ping").status == 200
    assert [model["modelName"] for model in server.get("/models").json["models"]] == ["half_plus_two"]


def test_a_model_for_which_there_is_no_memory_is_refused_before_it_is_loaded(server: Server) -> None:
    shutil.copytree(url(server, "digits"), url(server, "huge"))
    with (Path(url(server, "huge")) / "1" / "variables" / "more").open("wb") as file:
        file.truncate(1 << 43)
    found = load(server, "huge")
    assert found.status == 507
    assert found.error.startswith("model huge needs about 109")
    assert server.get("/ping").status == 200


def test_what_is_in_flight_ends_before_a_model_is_unloaded(server: Server) -> None:
    assert load(server, "slow").status == 200
    body = b'{"instances": [2.0]}'
    with contextlib.closing(server.connect()) as connection:
        connection.sendall(
            b"POST /models/slow/invoke HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        wait_until(lambda: b"in_flight 2" in server.get("/metrics").body, "the request is at work")
        assert server.ask("DELETE", "/models/slow").status == 200
        assert answer(connection).json == {"predictions": [2.0]}
    assert load(server, "slow").status == 200


def test_loading_and_unloading_gives_memory_back(server: Server, saved_models: Path) -> None:
    """Each time 16 MB of weights."""
    shutil.copytree(saved_models / "weights", url(server, "weights"))

    def cycle() -> int:
        assert load(server, "weights").status == 200
        assert server.ask("DELETE", "/models/weights").status == 200
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) // 1024

    before = max(cycle() for _ in range(5))
    after = min(cycle() for _ in range(20))
    assert after < before + 2 * 16


def test_paths_and_methods(server: Server) -> None:
    assert server.ask("PUT", "/models").headers["allow"] == "GET, HEAD, POST"
    assert server.ask("POST", "/models/m").headers["allow"] == "GET, HEAD, DELETE"
    assert server.ask("GET", "/models/m/invoke").headers["allow"] == "POST"
    assert server.get("/models/").status == 404
    assert server.get("/models/a/b").status == 404
