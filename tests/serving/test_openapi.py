"""/openapi.json: what is described is what is answered, also when models come and go."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs
import pytest
import schemathesis

from conftest import PROGRAMS
from serve_process import JSON, Answer, Server, serving
from signatures import FLOAT, INT32, STRING, default, signature, tensor
from tf_toolkit.serving.openapi.document import Served, document
from tf_toolkit.serving.openapi.model import Version
from tf_toolkit.serving.signature import PREDICT, DataType, Signature

MODELS = ("digits", "half_plus_two", "identities", "many", "vocabulary")


class Example(NamedTuple):
    path: str
    content_type: str
    body: bytes


@pytest.fixture(scope="module")
def server(saved_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = {name: saved_models / name for name in MODELS}
    root = tmp_path_factory.mktemp("server") / "ml"
    with serving(root, models, SAGEMAKER_TFS_DEFAULT_MODEL_NAME="half_plus_two") as started:
        yield started
        assert "Traceback" not in started.log


def described(server: Server) -> dict[str, Any]:
    found = server.get("/openapi.json")
    assert found.status == 200
    schemathesis.openapi.from_dict(found.json).validate()
    return dict(found.json)


def of_models(versions: list[Version], default_model: str | None = "m", *handled: str) -> dict[str, Any]:
    """The description of models that nobody has loaded."""
    found = json.loads(json.dumps(document(Served(versions, default_model, Path("/opt/ml"), set(handled)))))
    schemathesis.openapi.from_dict(found).validate()
    return dict(found)


def of_model(signatures: dict[str, Signature]) -> dict[str, Any]:
    return of_models([Version("m", 1, "AVAILABLE", signatures)])


def resolved(found: Any, described: dict[str, Any]) -> Any:
    while "$ref" in found:
        value: Any = described
        for key in found["$ref"].split("/")[1:]:
            value = value[key.replace("~1", "/").replace("~0", "~")]
        found = value
    return found


def bodies(operation: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    """The contents of requests, by their types."""
    return dict(resolved(operation.get("requestBody", {}), described).get("content", {}))


def examples(described: dict[str, Any]) -> list[Example]:
    found = []
    for path, operations in described["paths"].items():
        for content_type, content in bodies(operations.get("post", {}), described).items():
            values = [*content.get("examples", {}).values()]
            values += [{"value": content["example"]}] if "example" in content else []
            found += [Example(path, content_type, body_of(value)) for value in values]
    return found


def body_of(example: dict[str, Any]) -> bytes:
    if "externalValue" in example:
        head, _, data = example["externalValue"].partition(";base64,")
        assert head == "data:application/x-npy"
        return base64.b64decode(data)
    value = example["value"]
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def valid(value: Any, schema: dict[str, Any], described: dict[str, Any]) -> bool:
    whole = {**schema, "components": described["components"]}
    return jsonschema_rs.Draft202012Validator(whole).is_valid(value)


def test_every_example_is_answered_as_described(server: Server) -> None:
    found = described(server)
    asked = examples(found)
    assert {example.content_type for example in asked if example.path == "/invocations"} == {
        "application/json",
        "application/jsonlines",
        "application/jsons",
        "text/csv",
        "application/x-npy",
    }
    for example in asked:
        answered = server.ask("POST", example.path, example.body, {"Content-Type": example.content_type})
        assert answered.status == 200, (example, answered)
        operation = found["paths"][example.path]["post"]
        content = resolved(operation["responses"]["200"], found)["content"]["application/json"]
        assert valid(answered.json, content["schema"], found), (example, answered.body)
        if example.content_type == "application/json":
            schema = bodies(operation, found)[example.content_type]["schema"]
            assert valid(json.loads(example.body), schema, found), example


def test_every_get_is_answered_as_described(server: Server) -> None:
    found = described(server)
    for path, operations in found["paths"].items():
        if "get" in operations:
            answered = server.get(path)
            assert answered.status == 200, path
            content = resolved(operations["get"]["responses"]["200"], found).get("content", {})
            if "application/json" in content:
                assert valid(answered.json, content["application/json"]["schema"], found), path
            else:
                assert [*content] == ([] if path == "/ping" else ["text/plain"])


def test_answers_in_every_type_that_is_described(server: Server) -> None:
    content = described(server)["paths"]["/invocations"]["post"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "application/jsonlines", "text/csv", "application/x-npy"}
    for accept in content:
        found = server.invoke('{"instances": [[0.0]]}', Accept=accept)
        assert (found.status, found.headers["content-type"]) == (200, accept)


def test_methods_are_those_that_the_signatures_allow(server: Server) -> None:
    paths = described(server)["paths"]
    for name, methods in {
        "half_plus_two": {"predict", "classify", "regress"},
        "digits": {"predict", "classify"},
        "vocabulary": {"predict"},
        "identities": {"predict"},
    }.items():
        for base in (f"/v1/models/{name}", f"/v1/models/{name}/versions/1"):
            assert {path.rpartition(":")[2] for path in paths if path.startswith(f"{base}:")} == methods
            assert {base, f"{base}/metadata"} <= paths.keys()


def test_an_error_is_as_described(server: Server) -> None:
    found = described(server)
    for path, body, status in (
        ("/v1/models/digits:predict", '{"instances": []}', 400),
        ("/invocations", "x,y", 400),
    ):
        answered = server.ask("POST", path, body, JSON)
        assert answered.status == status
        responses = found["paths"][path]["post"]["responses"]
        schema = resolved(responses[str(status)], found)["content"]["application/json"]["schema"]
        assert valid(answered.json, schema, found)


@pytest.fixture(scope="module")
def shared(saved_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("server") / "ml"
    with serving(root, {}, SAGEMAKER_MULTI_MODEL="true") as started:
        for name in ("half_plus_two", "vocabulary"):
            shutil.copytree(saved_models / name, root / "models" / name / "model" / name)
        code = root / "models" / "vocabulary" / "model" / "code"
        code.mkdir()
        shutil.copy(PROGRAMS / "serving" / "handlers" / "single.py", code / "inference.py")
        yield started


def load(server: Server, name: str) -> Answer:
    body = {"model_name": name, "url": f"{server.root}/models/{name}/model"}
    return server.ask("POST", "/models", json.dumps(body), JSON)


def test_models_come_and_go(shared: Server) -> None:
    before = described(shared)
    assert {"/models", "/models/{name}"} <= before["paths"].keys()
    assert not [path for path in before["paths"] if "half_plus_two" in path or path == "/invocations"]
    load_example = bodies(before["paths"]["/models"]["post"], before)["application/json"]["example"]
    assert load_example["url"].startswith(f"{shared.root}/models/")

    assert load(shared, "half_plus_two").status == 200
    loaded = described(shared)
    asked = [example for example in examples(loaded) if "half_plus_two" in example.path]
    assert "/models/half_plus_two/invoke" in {example.path for example in asked}
    for example in asked:
        answered = shared.ask("POST", example.path, example.body, {"Content-Type": example.content_type})
        assert answered.status == 200, (example, answered)

    assert shared.ask("DELETE", "/models/half_plus_two").status == 200
    assert described(shared) == before


def test_models_that_are_listed_are_as_described(shared: Server) -> None:
    assert load(shared, "half_plus_two").status == 200
    found = described(shared)
    for path, asked in (("/models", "/models"), ("/models/{name}", "/models/half_plus_two")):
        schema = found["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert valid(shared.get(asked).json, schema, found)
    assert shared.ask("DELETE", "/models/half_plus_two").status == 200


def test_what_the_users_code_answers_may_be_anything(shared: Server) -> None:
    assert load(shared, "vocabulary").status == 200
    found = described(shared)
    operation = found["paths"]["/models/vocabulary/invoke"]["post"]
    assert bodies(operation, found) == {"*/*": {}}
    assert operation["responses"]["200"]["content"] == {"*/*": {"schema": {}}}
    assert shared.ask("DELETE", "/models/vocabulary").status == 200


def schema_of(found: dict[str, Any], path: str, content_type: str = "application/json") -> dict[str, Any]:
    return dict(bodies(found["paths"][path]["post"], found)[content_type]["schema"])


@pytest.mark.parametrize(
    ("body", "right"),
    [
        ({"instances": [[0.5, 1]]}, True),
        ({"instances": [{"x": [0.5, 1]}, {"x": [2, 3]}]}, True),
        ({"inputs": [[0.5, 1]], "output_filter": ["y"]}, True),
        ({"inputs": {"x": [[0.5, 1]]}, "signature_name": "serving_default"}, True),
        ({"instances": []}, False),
        ({"instances": [[0.5]]}, False),
        ({"instances": [[0.5, "1"]]}, False),
        ({"instances": [[0.5, 1e39]]}, False),
        ({"instances": [{"z": [0.5, 1]}]}, False),
        ({"inputs": [0.5, 1]}, False),
        ({"inputs": [[0.5, 1]], "output_filter": ["z"]}, False),
        ({"inputs": [[0.5, 1]], "signature_name": "other"}, False),
        ({}, False),
    ],
)
def test_a_predict_request(body: object, right: bool) -> None:
    found = of_model(default({"x": tensor(FLOAT, (-1, 2))}))
    assert valid(body, schema_of(found, "/v1/models/m:predict"), found) is right
    assert valid(body, schema_of(found, "/invocations"), found) is right


@pytest.mark.parametrize(
    ("shape", "body", "right"),
    [
        ((-1, 2), [0.5, 1], True),
        ((-1, 2), [[0.5, 1], [2, 3]], True),
        ((-1, 2), {"x": [0.5, 1]}, True),
        ((-1, 2), [{"x": [0.5, 1]}], True),
        ((-1, 2), 0.5, False),
        ((-1,), 0.5, True),
        ((-1,), [0.5, 1], True),
        ((-1, 2, 1), [[0.5], [1]], False),
        ((-1, 2, 1), [[[0.5], [1]]], True),
        ((-1, 2, 1), {"x": [[0.5], [1]]}, True),
    ],
)
def test_instances_alone(shape: tuple[int, ...], body: object, right: bool) -> None:
    found = of_model(default({"x": tensor(FLOAT, shape)}))
    assert valid(body, schema_of(found, "/invocations"), found) is right
    assert not valid(body, schema_of(found, "/v1/models/m:predict"), found)


def test_several_inputs_have_names_and_no_csv() -> None:
    found = of_model(default({"a": tensor(INT32), "b_bytes": tensor(STRING)}))
    assert set(bodies(found["paths"]["/invocations"]["post"], found)) == {
        "application/json",
        "application/jsonlines",
        "application/jsons",
    }
    (example,) = (example for example in examples(found) if example.path == "/v1/models/m:predict")
    assert json.loads(example.body) == {"instances": [{"a": 0, "b_bytes": {"b64": ""}}]}
    schema = schema_of(found, "/v1/models/m:predict")
    assert not valid({"instances": [0]}, schema, found)
    assert not valid({"instances": [{"a": 0}]}, schema, found)
    assert not valid({"instances": [{"a": 0.5, "b_bytes": ""}]}, schema, found)


def test_what_is_no_batch_is_described_in_columns_alone() -> None:
    found = of_model(default({"a": tensor(FLOAT, (2, -1)), "factor": tensor(FLOAT, ())}))
    (example,) = (example for example in examples(found) if example.path == "/invocations")
    assert json.loads(example.body) == {"inputs": {"a": [[0.0], [0.0]], "factor": 0.0}}
    assert not valid({"instances": [{"a": [0], "factor": 0}]}, schema_of(found, "/v1/models/m:predict"), found)


def test_types_that_json_does_not_have_come_as_npy() -> None:
    found = of_model(default({"x": tensor(DataType.DT_COMPLEX64)}))
    assert set(bodies(found["paths"]["/invocations"]["post"], found)) == {"application/x-npy"}
    assert "/v1/models/m:predict" not in found["paths"]


def test_a_model_without_a_default_signature_is_asked_by_name() -> None:
    found = of_model({"other": signature({"x": tensor(FLOAT)})})
    assert set(bodies(found["paths"]["/invocations"]["post"], found)) == {"application/json"}
    assert [json.loads(example.body) for example in examples(found) if example.path == "/invocations"] == [
        {"signature_name": "other", "instances": [0.0]}
    ]


@pytest.mark.parametrize("signatures", [{}, {"s": Signature({}, {}, PREDICT)}, {"s": Signature({}, {}, "")}])
def test_a_model_that_takes_nothing(signatures: dict[str, Signature]) -> None:
    paths = of_model(signatures)["paths"]
    assert "/v1/models/m/metadata" in paths
    assert not [path for path in paths if ":" in path]


def test_large_inputs_have_no_example() -> None:
    found = of_model(default({"x": tensor(FLOAT, (-1, 224, 224, 3))}))
    assert not examples(found)
    assert len(json.dumps(found)) < 50_000


def test_a_model_that_does_not_answer_has_its_state_alone() -> None:
    found = of_models([Version("m", 2, "LOADING", None), Version("m", 1, "AVAILABLE", default({"x": tensor(FLOAT)}))])
    paths = found["paths"]
    assert {"/v1/models/m/versions/2", "/v1/models/m", "/v1/models/m:predict", "/invocations"} <= paths.keys()
    assert "/v1/models/m/versions/2/metadata" not in paths
    assert "Version 2: LOADING" in next(tag["description"] for tag in found["tags"] if tag["name"] == "m")
    loading = of_models([Version("m", 1, "LOADING", None)])["paths"]
    assert "/v1/models/m" in loading
    assert "/invocations" not in loading


@pytest.mark.parametrize(
    "names",
    [("a b", "a.20b", "a%20b"), ("é", "e", "ü{x}"), ("x~", "x.7E", "x/"), ("m-1", "m", "1-m"), ("a b", "a-b", "a.b")],
)
def test_models_of_any_name(names: tuple[str, ...]) -> None:
    signatures = {name: default({"x": tensor(FLOAT, (-1, size))}) for size, name in enumerate(names, 2)}
    found = of_models([Version(name, 1, "AVAILABLE", each) for name, each in signatures.items()], None)
    ids = [each["operationId"] for methods in found["paths"].values() for each in methods.values()]
    assert sorted(ids) == sorted(set(ids))
    predicts = [path for path in found["paths"] if path.endswith(":predict") and "/versions/" not in path]
    assert len(predicts) == len(names)
    sizes = {len(json.loads(each.body)["instances"][0]) for each in examples(found) if each.path in predicts}
    assert sizes == {2, 3, 4}


def test_handled_invocations() -> None:
    found = of_models([Version("m", 1, "AVAILABLE", default({"x": tensor(FLOAT)}))], "m", "m")
    assert bodies(found["paths"]["/invocations"]["post"], found) == {"*/*": {}}
