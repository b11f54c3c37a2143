"""The examples of the SageMaker Python SDK's documentation, "Deploy TensorFlow Serving models", on a real server.

They are in its order, and word for word; what its `predictor` sends is written out. The model is the document's
half_plus_three.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from conftest import PROGRAMS
from serve_process import Server, serving

LISTINGS = PROGRAMS / "serving" / "handlers"
JSON, CSV, LINES = "application/json", "text/csv", "application/jsonlines"
ATTRIBUTES = "X_Amzn_SageMaker_Custom_Attributes"
MODELS = ("half_plus_three", "half_plus_two")

Y = [3.5, 4.0, 5.5]
# In its order: what is sent, and what comes back.
EXAMPLES: list[tuple[str, str, str, object]] = [
    ("a prediction request", JSON, '{"instances": [1.0, 2.0, 5.0]}', Y),
    (
        "multiple instances",
        JSON,
        '{"instances": [[1.0, 2.0, 5.0], [1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]}',
        [Y, Y, Y],
    ),
    ("a Python value is one instance", JSON, "1.0", [3.5]),
    ("a one-dimensional array is one instance", JSON, "[1.0, 2.0, 5.0]", [Y]),
    ("a multidimensional array is many instances", JSON, "[[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]", [Y, Y]),
    (
        "deeper arrays are many instances, too",
        JSON,
        "[[[1.0], [2.0]], [[5.0], [2.0]]]",
        [[[3.5], [4.0]], [[5.5], [4.0]]],
    ),
    ("a dict is one instance", JSON, '{"x": [1.0, 2.0, 5.0]}', [Y]),
    (
        "each line is an instance",
        LINES,
        '{"x": [1.0, 2.0, 5.0]}\n{"x": [1.0, 2.0, 5.0]}\n{"x": [1.0, 2.0, 5.0]}',
        [Y, Y, Y],
    ),
    ("also called jsons", "application/jsons", '{"x": [1.0, 2.0, 5.0]}\n{"x": [1.0, 2.0, 5.0]}', [Y, Y]),
    ("each line of CSV is an instance", CSV, "1.0,2.0,5.0\n1.0,2.0,5.0\n1.0,2.0,5.0", [Y, Y, Y]),
]
# Complete control over the request: it asks a second model about what the first one says.
TWO_MODELS = """\
import json
import requests


def handler(data, context):
    first = requests.post(context.rest_uri, data=data.read()).json()["predictions"]
    second = context.rest_uri.replace(context.model_name, "half_plus_two")
    return requests.post(second, data=json.dumps({"instances": first})).content
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, saved_models: Path) -> Iterator[Server]:
    models = {name: saved_models / name for name in MODELS}
    with serving(tmp_path_factory.mktemp("documented") / "ml", models) as server:
        yield server


@pytest.fixture(scope="module", params=["pair.py", "single.py"])
def listing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, saved_models: Path
) -> Iterator[Server]:
    """A server with one of the document's two listings as code/inference.py."""
    root = tmp_path_factory.mktemp("listing")
    with handled(root, (LISTINGS / request.param).read_text(), saved_models) as server:
        yield server


def handled(root: Path, text: str, saved_models: Path) -> AbstractContextManager[Server]:
    """A server with this text as code/inference.py."""
    code = root / "code"
    code.mkdir()
    (code / "inference.py").write_text(text)
    return serving(root / "ml", {**{name: saved_models / name for name in MODELS}, "code": code})


@pytest.mark.parametrize(
    ("content_type", "body", "predictions"), [each[1:] for each in EXAMPLES], ids=[each[0] for each in EXAMPLES]
)
def test_predictions(server: Server, content_type: str, body: str, predictions: object) -> None:
    answer = server.invoke(body, Content_Type=content_type)
    assert (answer.status, answer.headers["content-type"]) == (200, JSON)
    assert answer.json == {"predictions": predictions}


def test_regress_and_classify(server: Server) -> None:
    examples = [{"x": 1.0}, {"x": 2.0}]
    body = json.dumps({"signature_name": "tensorflow/serving/regress", "examples": examples})
    assert server.invoke(body, **{ATTRIBUTES: "tfs-method=regress"}).json == {"results": [3.5, 4.0]}
    body = json.dumps({"signature_name": "classify_x_to_y", "examples": examples})
    answer = server.invoke(body, **{ATTRIBUTES: "tfs-method=classify"})
    assert answer.json == {"results": [[["", 3.5]], [["", 4.0]]]}


def test_the_rest_api_itself(server: Server) -> None:
    """Of which /invocations is a super-set: the same request, and the same answer."""
    body = '{"instances": [1.0, 2.0, 5.0]}'
    for port in (server.port, server.rest_port):
        answer = server.ask("POST", "/v1/models/half_plus_three:predict", body, port=port)
        assert (answer.status, answer.body) == (200, server.invoke(body).body)


def test_json_lines_as_python_writes_them(server: Server) -> None:
    """The quotes of the document's example, which are not JSON's: no line is taken for something else."""
    body = "{'x': [1.0, 2.0, 5.0]}\n{'x': [1.0, 2.0, 5.0]}\n{'x': [1.0, 2.0, 5.0]}"
    answer = server.invoke(body, Content_Type=LINES)
    assert answer.status == 400
    assert answer.error.startswith("line 1: JSON Parse error: ")


# Listings


def test_a_listing_handles_json_and_csv(listing: Server) -> None:
    answer = listing.invoke('{"instances": [1.0, 2.0, 5.0]}')
    assert (answer.status, answer.headers["content-type"]) == (200, JSON)
    assert answer.json == {"predictions": Y}
    answer = listing.invoke("1.0,2.0,5.0", Content_Type=CSV, Accept="application/vnd.mine+json")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/vnd.mine+json")
    assert answer.json == {"predictions": Y}


def test_a_listing_defaults_to_json(listing: Server) -> None:
    """Where the request says neither what it is nor what it accepts."""
    answer = listing.ask("POST", "/invocations", '{"instances": [1.0, 2.0, 5.0]}')
    assert (answer.status, answer.headers["content-type"], answer.json) == (200, JSON, {"predictions": Y})


def test_a_listing_raises_what_it_cannot_handle(listing: Server) -> None:
    answer = listing.invoke("x", Content_Type="image/png")
    assert (answer.status, answer.error) == (500, "unsupported content type image/png")
    answer = listing.invoke('{"instances": ["a"]}')
    assert answer.status == 500 and answer.error.startswith("Failed to process element: 0 of 'instances' list.")
    answer = listing.invoke("")
    assert answer.status == 500 and answer.error.startswith("JSON Parse error: The document is empty")
    assert listing.get("/ping").status == 200


def test_a_listing_asks_the_model_that_the_request_names(listing: Server) -> None:
    body = '{"instances": [1.0, 2.0, 5.0]}'
    attributes = "tfs-model-name=half_plus_two,tfs-method=predict"
    assert listing.invoke(body, **{ATTRIBUTES: attributes}).json == {"predictions": [2.5, 3.0, 4.5]}
    body = '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}'
    assert listing.invoke(body, **{ATTRIBUTES: "tfs-method=regress"}).json == {"results": [3.5, 4.0]}
    assert listing.invoke(body, **{ATTRIBUTES: "tfs-model-name=none"}).status == 500


def test_a_listing_leaves_its_folder_as_it_was(listing: Server) -> None:
    assert [path.name for path in (listing.root / "model" / "code").iterdir()] == ["inference.py"]


def test_a_handler_asks_two_models(tmp_path: Path, saved_models: Path) -> None:
    with handled(tmp_path, TWO_MODELS, saved_models) as server:
        answer = server.invoke('{"instances": [1.0, 2.0, 5.0]}')
        assert (answer.status, answer.headers["content-type"]) == (200, JSON)
        assert answer.json == {"predictions": [3.75, 4.0, 4.75]}
