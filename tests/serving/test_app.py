"""What the server answers, over real HTTP, with real models; and what it answers to what is no good."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import wait_until
from serve_process import JSON, Server, answer, serving

MODEL = "x-amzn-sagemaker-custom-attributes"


@pytest.fixture(scope="module")
def server(saved_models: Path, slow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = {name: saved_models / name for name in ("half_plus_two", "half_plus_three", "digits")}
    root = tmp_path_factory.mktemp("server") / "ml"
    with serving(root, {**models, "slow": slow_model}, SAGEMAKER_TFS_DEFAULT_MODEL_NAME="half_plus_three") as started:
        yield started
        assert started.process.poll() is None
        started.signal()
        assert started.ended() == 0


def test_ping_is_an_empty_200(server: Server) -> None:
    found = server.get("/ping")
    assert (found.status, found.body) == (200, b"")
    head = server.ask("HEAD", "/ping")
    assert (head.status, head.body) == (200, b"")


def test_an_invocation_is_for_the_default_model(server: Server) -> None:
    found = server.invoke('{"instances": [1.0, 2.0, 5.0]}')
    assert found.status == 200
    assert found.headers["content-type"] == "application/json"
    assert found.json == {"predictions": [3.5, 4.0, 5.5]}


@pytest.mark.parametrize(
    ("attributes", "body", "expected"),
    [
        ("tfs-model-name=half_plus_two", '{"instances": [1.0]}', {"predictions": [2.5]}),
        ("tfs-model-name=half_plus_two,tfs-model-version=1", '{"instances": [1.0]}', {"predictions": [2.5]}),
        ("tfs-method=predict", "[1.0, 2.0]", {"predictions": [[3.5, 4.0]]}),
        (
            "tfs-method=regress",
            '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}',
            {"results": [3.5, 4.0]},
        ),
        (
            "tfs-method=classify",
            '{"signature_name": "classify_labels", "examples": [{"x": 1.0}]}',
            {"results": [[["zero", 3.5], ["one", 3.5]]]},
        ),
    ],
)
def test_custom_attributes_say_which_model_and_method(
    server: Server, attributes: str, body: str, expected: object
) -> None:
    found = server.invoke(body, x_amzn_sagemaker_custom_attributes=attributes)
    assert (found.status, found.json) == (200, expected)


def test_content_type_and_accept_are_heard(server: Server) -> None:
    found = server.invoke("1.0,2.0\n3.0,4.0\n", Content_Type="text/csv; charset=utf-8", Accept="text/csv")
    assert (found.status, found.headers["content-type"], found.body) == (200, "text/csv", b"3.5,4.0\n4.5,5.0")
    lines = server.invoke("[1.0]\n[2.0]", Content_Type="application/jsonlines", Accept="application/jsonlines")
    assert (lines.status, lines.body) == (200, b"[3.5]\n[4.0]")


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        ({MODEL: "tfs-model-name=none"}, 404, "Servable not found for request: Latest(none)"),
        ({MODEL: "tfs-model-version=7"}, 404, "Servable not found for request: Specific(half_plus_three, 7)"),
        ({MODEL: "tfs-model-name=../../etc"}, 400, "invalid tfs-model-name"),
        ({MODEL: "tfs-method=delete"}, 400, "invalid tfs-method"),
        ({"Content-Type": "image/png"}, 415, "Unsupported Media Type: image/png"),
    ],
)
def test_an_invocation_of_what_is_not_there(server: Server, headers: dict[str, str], status: int, message: str) -> None:
    found = server.ask("POST", "/invocations", "[1.0]", {**JSON, **headers})
    assert (found.status, found.error) == (status, message)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"instances":' * 50_000,
        b"[1e999]",
        b"[" + b"9" * 100_000 + b"]",
        b'{"instances": [[1, 2], [3]]}',
        b'{"instances": ["one"]}',
        b'{"instances": [1], "inputs": [1]}',
        b"\x00" * 1000,
    ],
)
def test_a_bad_body_is_a_400(server: Server, body: bytes) -> None:
    found = server.invoke(body)
    assert found.status == 400, found
    assert found.error


def test_the_rest_api_of_tensorflow_serving(server: Server) -> None:
    for port in (server.port, server.rest_port):
        for path in ("/v1/models/half_plus_two", "/V1/Models/half_plus_two/Versions/1", "/v1/models/half%5Fplus_two"):
            found = server.ask("POST", f"{path}:predict", '{"instances": [1.0]}', port=port)
            assert (found.status, found.json) == (200, {"predictions": [2.5]}), path
    status = server.get("/v1/models/half_plus_two")
    assert status.json == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    assert server.get("/v1/models/half_plus_two/versions/1").json == status.json
    metadata = server.get("/v1/models/half_plus_two/versions/1/metadata").json
    assert metadata["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "1"}
    assert "serving_default" in metadata["metadata"]["signature_def"]["signature_def"]
    regress = server.ask("POST", "/v1/models/half_plus_two:regress", '{"examples": [{"x": 2.0}]}')
    assert regress.json == {"results": [3.0]}


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/", 400, "Missing model name in request."),
        ("GET", "/v1/models/none", 404, "Could not find any versions of model none"),
        ("GET", "/v1/models/half_plus_two/versions/9", 404, "Could not find version 9 of model half_plus_two"),
        ("GET", "/v1/models/none/metadata", 404, "Servable not found for request: Latest(none)"),
        ("GET", "/v1/models/half_plus_two/labels/x", 400, "Unrecognized servable version label: x"),
        ("POST", "/v1/models/none:predict", 404, "Servable not found for request: Latest(none)"),
        ("POST", "/v1/models/half_plus_two/versions/9:predict", 404, "Servable not found for request: Specific"),
        ("POST", "/v1/models/half_plus_two/labels/x:predict", 400, "Unrecognized servable version label: x"),
        ("POST", "/v1/models/half_plus_two:delete", 400, "Malformed request: POST /v1/models/half_plus_two:delete"),
        ("POST", f"/v1/models/half_plus_two/versions/{'9' * 30}:predict", 400, "Malformed request: POST"),
        ("GET", "/v1/models/..%2F..%2Fetc%2Fpasswd", 404, "Could not find any versions of model ../../etc/passwd"),
        ("GET", "/v1/models/../../etc/passwd", 400, "Malformed request: GET"),
        ("GET", "/v1/models/%ff%00", 404, "Could not find any versions of model "),
        ("GET", "/", 404, "Not Found"),
        ("GET", "/pingxyz", 404, "Not Found"),
        ("GET", "/ping/", 404, "Not Found"),
        ("GET", "//ping", 404, "Not Found"),
        ("POST", "/invocations/", 404, "Not Found"),
        ("GET", "/v1", 404, "Not Found"),
    ],
)
def test_paths_are_matched_whole(server: Server, method: str, path: str, status: int, message: str) -> None:
    found = server.ask(method, path)
    assert found.status == status
    assert found.error.startswith(message)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/ping", "GET, HEAD"),
        ("DELETE", "/ping", "GET, HEAD"),
        ("GET", "/invocations", "POST"),
        ("HEAD", "/invocations", "POST"),
        ("OPTIONS", "/invocations", "POST"),
        ("PUT", "/execution-parameters", "GET, HEAD"),
        ("GET", "/v1/models/half_plus_two:predict", "POST"),
        ("POST", "/v1/models/half_plus_two", "GET, HEAD"),
        ("TRACE", "/metrics", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_which_are_right(server: Server, method: str, path: str, allowed: str) -> None:
    found = server.ask(method, path)
    assert (found.status, found.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        assert found.error == f"Malformed request: {method} {path}; allowed here: {allowed}"


def test_what_a_batch_transform_asks(server: Server) -> None:
    told = server.get("/execution-parameters").json
    assert set(told) == {"MaxConcurrentTransforms", "MaxPayloadInMB"}
    assert told["MaxConcurrentTransforms"] >= 1
    assert told["MaxPayloadInMB"] == 6


def test_metrics_count_requests_and_know_the_models(server: Server) -> None:
    def value(name: str) -> float:
        lines = server.get("/metrics").body.decode().splitlines()
        return float(next((line.rpartition(" ")[2] for line in lines if line.startswith(name + " ")), "0"))

    counter = 'tf_toolkit_requests_total{route="/invocations",model="half_plus_three",status="200"}'
    before = value(counter)
    count_before = value('tf_toolkit_request_seconds_count{route="/invocations"}')
    server.invoke("[1.0]")
    server.invoke("[1.0]", x_amzn_sagemaker_custom_attributes="tfs-model-name=made-up")
    assert value(counter) == before + 1
    assert value('tf_toolkit_request_seconds_count{route="/invocations"}') == count_before + 2
    assert value('tf_toolkit_model_state{model="digits",version="1",state="AVAILABLE"}') == 1
    assert value("tf_toolkit_requests_in_flight") == 1
    text = server.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"made-up" not in text.body


def test_the_access_log_has_a_line_for_each_request_but_pings(server: Server) -> None:
    server.get("/ping")
    server.ask("POST", "/invocations?mark=1", "[1.0]", JSON)
    server.ask("POST", "/marked%20path", "12345")
    wait_until(lambda: any(line["path"] == "/marked%20path" for line in server.access_log), "the line is written")
    lines = server.access_log
    assert not [line for line in lines if line["path"] == "/ping" and line["status"] == 200]
    line = lines[-1]
    assert (line["method"], line["status"], line["sent"]) == ("POST", 404, 21)
    assert line["ms"] >= 0
    assert line["time"].endswith("Z")
    assert lines[-2]["path"] == "/invocations"
    assert lines[-2]["received"] == len("[1.0]")


def test_ping_is_answered_while_a_model_works_on_several_requests(server: Server) -> None:
    connections = [server.connect() for _ in range(4)]
    body = b'{"instances": [3.0]}'
    for connection in connections:
        connection.sendall(
            b"POST /v1/models/slow:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
    wait_until(lambda: b"in_flight 5" in server.get("/metrics").body, "all are at work")
    assert server.get("/ping").status == 200
    assert server.invoke("[1.0]").status == 200
    assert b"in_flight 5" in server.get("/metrics").body
    for connection in connections:
        assert answer(connection).json == {"predictions": [3.0]}
        connection.close()


def test_many_clients_at_once_get_their_own_answers(server: Server) -> None:
    wrong: list[object] = []

    def ask(number: int) -> None:
        for step in range(20):
            value = number + step / 100
            found = server.invoke(json.dumps({"instances": [value]}))
            if found.status != 200 or abs(found.json["predictions"][0] - (value / 2 + 3)) > 1e-4:
                wrong.append((value, found))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong


def test_answers_are_tagged_with_what_answered(server: Server) -> None:
    assert server.get("/ping").headers["server"].startswith("tf-toolkit/")
