"""The user's code on a server of many models: each model's own, what is common to others, and what is left of it."""

from __future__ import annotations

import concurrent.futures
import json
import shutil
import textwrap
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from conftest import DEADLINE, wait_until
from serve_process import JSON, Answer, Server, serving

NOT_EXECUTABLE = 126
# Says what the process holds, too.
COMMON = """
import gc, json, sys, types
import helper

def handler(data, context):
    modules = [item for item in gc.get_objects() if isinstance(item, types.ModuleType)]
    files = [module.__file__ for module in modules if "/models/" in (getattr(module, "__file__", None) or "")]
    places = [place for place in [*sys.path, *sys.path_importer_cache] if "/models/" in place]
    return json.dumps({"name": helper.name, "files": files, "places": places, "modules": len(sys.modules)})
"""
# Waits until the file that its request names is there, then asks the model and has its REST API asked.
WAITS = """
import json, pathlib, time, urllib.request

def handler(data, context):
    go = pathlib.Path(data.read().decode())
    (go.parent / f"{go.name}.begun").touch()
    while not go.exists():
        time.sleep(0.01)
    request = urllib.request.Request(context.rest_uri, b'{"instances": [4.0]}')
    with urllib.request.urlopen(request) as answer:
        return json.dumps([*context.predict([2.0])["y"].tolist(), *json.load(answer)["predictions"]])
"""


class Models:
    """A server with common handlers, and folders of models as the platform fills them."""

    def __init__(self, server: Server, model: Path) -> None:
        self.server = server
        self._model = model

    def put(self, name: str, files: Mapping[str, str]) -> Path:
        """A model and what lies beside it, in place of what was there."""
        folder = self.server.root / "models" / name / "model"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "half_plus_two").symlink_to(self._model)
        for file, text in files.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return folder

    def load(self, name: str) -> Answer:
        body = json.dumps({"model_name": name, "url": f"{self.server.root}/models/{name}/model"})
        return self.server.ask("POST", "/models", body, JSON)

    def unload(self, name: str) -> Answer:
        return self.server.ask("DELETE", f"/models/{name}")

    def post(self, name: str, body: str = "", content_type: str = "application/json") -> Answer:
        return self.server.ask("POST", f"/models/{name}/invoke", body, {"Content-Type": content_type})

    def names(self) -> list[str]:
        return [model["modelName"] for model in self.server.get("/models").json["models"]]

    def held(self) -> Any:
        """What common code finds, of a model that has none of its own."""
        self.put("plain", {})
        assert self.load("plain").status == 200
        found = self.post("plain").json
        assert self.unload("plain").status == 200
        return found


@pytest.fixture(scope="module")
def shared(saved_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    root = tmp_path_factory.mktemp("server") / "ml"
    (root / "code").mkdir(parents=True)
    (root / "code" / "inference.py").write_text(COMMON)
    (root / "code" / "helper.py").write_text("name = 'common'\n")
    (root / "code" / "requirements.txt").write_text("nothing-that-is-anywhere\n")
    with serving(root, {}, SAGEMAKER_MULTI_MODEL="true", TF_TOOLKIT_REQUIREMENTS="skip") as server:
        yield Models(server, saved_models / "half_plus_two")
        assert server.process.poll() is None


@pytest.fixture
def models(shared: Models) -> Iterator[Models]:
    """With no model loaded, before and after."""
    yield shared
    for name in shared.names():
        assert shared.unload(name).status == 200
    assert shared.server.get("/ping").status == 200


def test_own_code_counts_before_common_code(models: Models) -> None:
    models.put("ant", {"code/inference.py": "def handler(data, context): return 'own'\n"})
    lost = models.put("bee", {"1/code/inference.py": "def handler(data, context): return 'lost'\n"})
    assert [models.load(name).status for name in ("ant", "bee")] == [200, 200]
    assert models.post("ant").body == b"own"
    assert models.post("bee").json["name"] == "common"
    log = models.server.log
    assert f"installing {models.server.root}/code/requirements.txt" in log
    assert f"{lost}/1/code/inference.py is not used: it belongs to {lost}/code/inference.py" in log


def test_modules_of_models_are_kept_apart(models: Models) -> None:
    """By equal names in the code and in lib, imported at once or later, and by the path that the code sets."""
    inference = """
        import os, sys
        import helper, package.inner as inner
        sys.path.insert(0, os.path.join(os.path.dirname(__file__), "more"))
        import added
        count = 0

        def handler(data, context):
            global count
            count += 1
            import json, later, package.lazy
            from package import inner as same
            from package.lazy import name
            assert same is inner is helper.inner and package.lazy.name == name
            assert "helper" not in sys.modules and not any("model/code" in path for path in sys.path)
            names = [helper.name, later.name, inner.name, name, added.name]
            return json.dumps([context.model_name, count, *names, *context.predict([2.0])["y"].tolist()])
        """
    for model in ("ant", "bee"):
        name = f"name = {model!r}\n"
        files = {f"code/{place}.py": name for place in ("later", "lib/package/inner", "lib/package/lazy", "more/added")}
        files |= {"code/helper.py": f"{name}from package import inner\n", "code/inference.py": inference}
        models.put(model, {**files, "code/lib/package/__init__.py": "", "code/json/nothing.py": ""})
        assert models.load(model).status == 200
    for count in (1, 2):
        for model in ("ant", "bee"):
            assert models.post(model).json == [model, count, *[model] * 5, 3.0], models.server.log
    assert models.held()["name"] == "common"


def test_a_pair_of_handlers_asks_the_model(models: Models) -> None:
    models.put(
        "ant",
        {
            "code/inference.py": """
            def input_handler(data, context):
                return {"instances": [float(word) for word in data.read().split()]}

            def output_handler(answer, context):
                return f"{answer.status_code} {answer.json()}", context.request_content_type
            """
        },
    )
    assert models.load("ant").status == 200
    found = models.post("ant", "1 2", "text/words")
    assert (found.body, found.headers["content-type"]) == (b"200 {'predictions': [2.5, 3.0]}", "text/words")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import notthere\n", "cannot be imported: ModuleNotFoundError: No module named 'notthere'; name what holds"),
        ("def handler(:\n", "cannot be imported: SyntaxError"),
        ("raise SystemExit('enough')\n", "cannot be imported: SystemExit: enough"),
        ("raise MemoryError\n", "cannot be imported: MemoryError"),
        ("def input_handler(d, c): ...\n", "defines input_handler but no output_handler; define both, or handler"),
        ("", "defines no handler; define handler, or input_handler and output_handler"),
    ],
)
def test_code_that_cannot_be_had_leaves_nothing_loaded(models: Models, text: str, message: str) -> None:
    program = models.put("ant", {"code/inference.py": text}) / "code" / "inference.py"
    refused = models.load("ant")
    assert refused.status == 400
    assert str(program) in refused.error and message in refused.error
    assert models.names() == []
    assert models.server.ask("POST", "/v1/models/ant:predict", '{"instances": [1.0]}').status == 404
    assert (models.held()["files"], models.held()["places"]) == ([], [])
    # What is put right is loaded.
    models.put("ant", {"code/inference.py": "def handler(data, context): return 'right'\n"})
    assert models.load("ant").status == 200
    assert models.post("ant").body == b"right"


def test_code_of_a_model_that_cannot_be_loaded_is_dropped(models: Models) -> None:
    folder = models.put(
        "ant", {"code/inference.py": "def handler(data, context): ...\n", "other/1/saved_model.pb": "x"}
    )
    (folder / "half_plus_two").unlink()
    refused = models.load("ant")
    assert (refused.status, str(folder / "other" / "1") in refused.error) == (400, True)
    assert models.names() == []
    assert (models.held()["files"], models.held()["places"]) == ([], [])


def test_what_is_unloaded_leaves_nothing(models: Models) -> None:
    """Each has 20 MB in a module, and each is of new code under an old name."""

    def cycle(number: int) -> int:
        models.put(
            "ant",
            {
                "code/helper.py": f"numbers = bytes(range(250)) * 80000\nnumber = {number}\n",
                "code/inference.py": """
                import helper

                def handler(data, context):
                    if data.read():
                        raise RuntimeError
                    return f"{helper.number} {sum(helper.numbers[:2])}"
                """,
            },
        )
        assert models.load("ant").status == 200
        assert models.post("ant").body == b"%d 1" % number
        assert models.post("ant", "fails").status == 500
        assert models.unload("ant").status == 200
        status = Path(f"/proc/{models.server.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) // 1024

    before = max(cycle(number) for number in range(3))
    held = models.held()
    assert (held["files"], held["places"]) == ([], [])
    after = min(cycle(number) for number in range(3, 11))
    assert after < before + 2 * 20
    assert models.held() == held


def test_a_request_in_flight_keeps_its_model_until_it_ends(models: Models, tmp_path: Path) -> None:
    models.put("ant", {"code/inference.py": WAITS})
    assert models.load("ant").status == 200
    with concurrent.futures.ThreadPoolExecutor() as pool:
        in_flight = pool.submit(models.post, "ant", str(tmp_path / "go"))
        wait_until((tmp_path / "go.begun").exists, "the handler is at work")
        unloaded = pool.submit(models.unload, "ant")
        wait_until(lambda: models.names() == [], "the model is no longer listed")
        # Whoever comes now is refused, or waits.
        refused = models.post("ant", str(tmp_path / "go"))
        models.put("ant", {})
        loaded = pool.submit(models.load, "ant")
        assert (refused.status, refused.error) == (404, "Model ant is not loaded yet.")
        wait_until(lambda: b"in_flight 4" in models.server.get("/metrics").body, "three requests wait")
        (tmp_path / "go").touch()
        assert in_flight.result(DEADLINE).json == [3.0, 4.0]
        assert (unloaded.result(DEADLINE).status, loaded.result(DEADLINE).status) == (200, 200)
    assert models.post("ant").json["name"] == "common"


def test_traffic_while_models_come_and_go(models: Models) -> None:
    """Each request is answered by its own model, or is told that there is none."""
    names = ["ant", "bee", "cat"]
    for name in names:
        text = f"def handler(data, context): return f'{name} {{context.predict([2.0])[\"y\"][0]}}'\n"
        models.put(name, {"code/inference.py": text})
    found: set[tuple[str, int, bytes]] = set()
    over = threading.Event()

    def ask(name: str) -> None:
        while not over.is_set():
            answer = models.post(name)
            assert answer.headers["content-type"] == "application/json"
            found.add((name, answer.status, answer.body))

    with concurrent.futures.ThreadPoolExecutor(3 * len(names)) as pool:
        asking = [pool.submit(ask, name) for name in names for _ in range(2)]
        try:
            for _ in range(4):
                for change in (models.load, models.post, models.unload):
                    assert {answer.status for answer in pool.map(change, names)} == {200}
        finally:
            over.set()
        for each in asking:
            each.result(DEADLINE)
    gone = {(name, 404, b'{"error":"Model %b is not loaded yet."}' % name.encode()) for name in names}
    assert found <= gone | {(name, 200, b"%b 3.0" % name.encode()) for name in names}


def test_a_fault_of_a_handler(models: Models) -> None:
    models.put("ant", {"code/inference.py": "def handler(data, context): exec(data.read().decode())\n"})
    assert models.load("ant").status == 200
    for text, status, message in [
        ("raise ValueError('wrong')", 500, "wrong"),
        ("context.predict([1.0], model_name='bee')", 404, "Servable not found for request: Latest(bee)"),
        ("raise MemoryError", 507, "not enough memory for this request"),
    ]:
        answer = models.post("ant", text)
        assert (answer.status, answer.error) == (status, message)


def test_common_code_that_cannot_be_imported_ends_the_start(tmp_path: Path) -> None:
    root = tmp_path / "ml"
    program = root / "models" / "code" / "inference.py"
    program.parent.mkdir(parents=True)
    program.write_text("import notthere\n")
    with serving(root, {}, ready=False, SAGEMAKER_MULTI_MODEL="true") as server:
        assert server.ended() == NOT_EXECUTABLE
    last = server.log.splitlines()[-1]
    assert f"{program} cannot be imported: ModuleNotFoundError: No module named 'notthere'; name what" in last
