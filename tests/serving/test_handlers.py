"""Handlers of the user: requests through them, on a server in a process of its own."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conftest import DEADLINE, PROGRAMS, wait_until
from tf_toolkit.errors import ExecuteUserScriptError
from tf_toolkit.serving import model_code
from tf_toolkit.serving.handler_threads import HandlerThreads
from tf_toolkit.serving.handlers import Handlers
from tf_toolkit.serving.model_answer import ModelAnswer
from tf_toolkit.serving.model_code import ModelCode

HANDLERS = PROGRAMS / "serving" / "handlers"
JSON = "application/json"
# Ten times what it takes to import TensorFlow on a loaded machine.
LONGEST = 600
ECHO = "def handler(data, context):\n    return data.read(), context.request_content_type\n"


class Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """tests/programs/serving/handlers/server.py over a folder that is /opt/ml to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if not re.match(r"SAGEMAKER|AWS|TF_|PYTHONUNBUFFERED", name)
        }
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, name: str, text: str) -> Path:
        """A file of the model's code, or below /opt/ml if the name begins with a slash."""
        path = self.root / name[1:] if name.startswith("/") else self.root / "model" / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def begin(self, *options: str, **variables: str) -> None:
        (self.root / "model").mkdir(exist_ok=True)
        with (self.root / "stdout").open("wb") as stdout, (self.root / "stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, HANDLERS / "server.py", self.root, self.root / "port", *options],
                env={**self.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )

    def start(self, *options: str, **variables: str) -> None:
        self.begin(*options, **variables)
        process = self._process
        assert process is not None
        wait_until(lambda: (self.root / "port").exists() or process.poll() is not None, "the server listens or ends")
        assert process.poll() is None, self.log

    def ends(self) -> int:
        assert self._process is not None
        return self._process.wait(DEADLINE)

    @property
    def log(self) -> str:
        return (self.root / "stderr").read_text()

    @property
    def printed(self) -> str:
        return (self.root / "stdout").read_text()

    def get(self, path: str) -> Answer:
        return self._ask(urllib.request.Request(f"{self.url}{path}"))

    def post(
        self, body: bytes | str, content_type: str | None = JSON, path: str = "/invocations", **headers: str
    ) -> Answer:
        request = urllib.request.Request(
            f"{self.url}{path}", data=body.encode() if isinstance(body, str) else body, method="POST"
        )
        # urllib would add one of its own.
        request.add_unredirected_header("Content-Type", content_type or "")
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        return self._ask(request)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{(self.root / 'port').read_text()}"

    def _ask(self, request: urllib.request.Request) -> Answer:
        try:
            with urllib.request.urlopen(request, timeout=LONGEST) as answer:
                return Answer(answer.status, answer.headers["Content-Type"], answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers["Content-Type"], error.read())

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    root = tmp_path / "ml"
    root.mkdir()
    with contextlib.closing(Server(root)) as made:
        yield made


# The document's listings


@pytest.mark.parametrize("listing", ["pair.py", "single.py"])
def test_listings_of_the_document(server: Server, listing: str) -> None:
    server.write("inference.py", (HANDLERS / listing).read_text())
    server.start()
    answer = server.post('{"instances": [1.0, 2.0, 5.0]}')
    assert (answer.status, answer.content_type, answer.json) == (200, JSON, {"predictions": [3.5, 4.0, 5.5]})
    answer = server.post("1.0,2.0,5.0", "text/csv", Accept="application/vnd.mine")
    assert (answer.status, answer.content_type) == (200, "application/vnd.mine")
    assert answer.json == {"predictions": [3.5, 4.0, 5.5]}
    answer = server.post("x", "image/png")
    assert (answer.status, answer.content_type) == (500, JSON)
    assert answer.body == b'{"error": "unsupported content type image/png"}'
    assert "Traceback" in server.log
    answer = server.post('{"instances": [-1.0]}')
    assert (answer.status, answer.content_type, answer.json) == (500, JSON, {"error": "x must not be negative"})
    answer = server.post("")
    assert answer.status == 500
    assert "The document is empty" in answer.json["error"]
    assert server.get("/ping").status == 200


def test_custom_attributes_choose_the_model(server: Server) -> None:
    server.write("inference.py", (HANDLERS / "single.py").read_text())
    server.start()

    def ask(attributes: str) -> Answer:
        return server.post('{"instances": [2.0]}', X_Amzn_SageMaker_Custom_Attributes=attributes)

    assert ask("tfs-model-name=half_plus_two").json == {"predictions": [3.0]}
    assert ask("tfs-model-version=4, mine=1").json == {"predictions": [5.0]}
    assert ask("tfs-method=regress").status == 500
    assert ask("tfs-method=../x").status == 400
    assert ask("tfs-model-name=nobody").json["error"] == "Servable not found for request: Latest(nobody)"


@pytest.mark.parametrize("listing", ["pair.py", "single.py"])
def test_listings_with_a_real_model(server: Server, saved_models: Path, listing: str) -> None:
    server.write("inference.py", (HANDLERS / listing).read_text())
    server.start(str(saved_models / "half_plus_three"))
    assert server.post('{"instances": [1.0, 2.0, 5.0]}').json == {"predictions": [3.5, 4.0, 5.5]}
    attributes = "tfs-method=regress"
    body = '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}'
    assert server.post(body, X_Amzn_SageMaker_Custom_Attributes=attributes).json == {"results": [3.5, 4.0]}


def test_tensorflow_in_a_handler(server: Server, saved_models: Path) -> None:
    """Beside the engine's own, and in several threads."""
    server.write(
        "inference.py",
        """
        import json

        def handler(data, context):
            import tensorflow as tf
            y = context.predict([[1.0], [2.0]])["y"]
            return json.dumps(tf.reshape(tf.constant(y) * 2.0, [-1]).numpy().tolist())
        """,
    )
    settings = {"CUDA_VISIBLE_DEVICES": "-1", "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": str(LONGEST)}
    server.start(str(saved_models / "half_plus_three"), **settings)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.post(""), range(20)))
    assert [answer.json for answer in answers] == [[7.0, 8.0]] * 20


# What handlers get


def test_context(server: Server) -> None:
    server.write(
        "inference.py",
        """
        import json

        def handler(data, context):
            values = {name: value for name, value in zip(context._fields, context) if name != "channel"}
            assert context.channel is context._asdict()["channel"] is context._replace(timeout=1).channel
            assert values.pop("grpc_port") == context.grpc_port == context.grpc_uri
            model_name, *_, timeout = context
            changed = context._replace(model_name="half_plus_two")
            return json.dumps({
                **values,
                "fields": context._fields,
                "same": model_name == context.model_name and timeout == context.timeout,
                "asdict": sorted(context._asdict()) == sorted(context._fields),
                "replaced": changed.predict([2.0], model_version=1)["y"].tolist(),
            }), "application/json"
        """,
    )
    server.start(SAGEMAKER_MODEL_SERVER_TIMEOUT="42")
    port = server.url.rpartition(":")[2]
    assert server.post("12345", None).json == {
        "model_name": "half_plus_three",
        "model_version": "5",
        "method": "predict",
        "rest_uri": f"http://localhost:{port}/v1/models/half_plus_three:predict",
        "custom_attributes": None,
        "request_content_type": JSON,
        "accept_header": JSON,
        "content_length": 5,
        "timeout": 42,
        "fields": [
            *("model_name", "model_version", "method", "rest_uri", "grpc_port", "channel", "custom_attributes"),
            *("request_content_type", "accept_header", "content_length", "timeout"),
        ],
        "same": True,
        "asdict": True,
        "replaced": [3.0],
    }
    attributes = "tfs-model-version=4,tfs-method=classify,k=v=w"
    context = server.post(
        "", "Text/CSV; charset=utf-8", Accept="a/b, */*", X_Amzn_SageMaker_Custom_Attributes=attributes
    ).json
    assert (context["model_version"], context["method"], context["custom_attributes"]) == ("4", "classify", attributes)
    assert context["rest_uri"].endswith("/v1/models/half_plus_three/versions/4:classify")
    assert (context["request_content_type"], context["accept_header"]) == ("Text/CSV; charset=utf-8", "a/b, */*")
    assert context["content_length"] == 0


def test_default_accept_is_a_setting(server: Server) -> None:
    server.write("inference.py", "def handler(data, context):\n    return 'a'\n")
    server.start(SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT="text/csv")
    assert server.post("").content_type == "text/csv"


def test_data_is_a_stream_of_bytes(server: Server) -> None:
    server.write(
        "inference.py",
        """
        def handler(data, context):
            first = data.read(2)
            lines = [line for line in data]
            return repr([first, lines, data.read(), data.seek(0), data.read()]), "text/plain"
        """,
    )
    server.start()
    assert server.post(b"ab\xff\ncd").body.decode() == repr([b"ab", [b"\xff\n", b"cd"], b"", 0, b"ab\xff\ncd"])


def test_predict_takes_arrays_and_lists(server: Server) -> None:
    server.write(
        "inference.py",
        """
        import json
        import numpy as np

        def handler(data, context):
            small = context.predict(np.array([2], np.uint8))["y"]
            said = {
                "list": context.predict([[1.0, 2], [5, 6]])["y"].tolist(),
                "dict": context.predict({"x": (2.0,)})["y"].tolist(),
                "scalar": context.predict(2)["y"].tolist(),
                "dtype": str(small.dtype),
                "version": context.predict([2.0], model_version=4)["y"].tolist(),
                "model": context.predict([2.0], model_name="half_plus_two", model_version="1")["y"].tolist(),
                "sum": context.predict({"a": [1.0, 2.0], "b": np.array(7)}, signature_name="sum")["sum"].tolist(),
                "no": context.predict([True, False], "no")["no"].tolist(),
                "strings": [item.decode() for item in context.predict(["a", b"b", "\\u00e9"], "louder")["loud"]],
                "array of strings": context.predict(np.array(["ab"]), "louder")["loud"].tolist()[0].decode(),
            }
            return json.dumps(said), "application/json"
        """,
    )
    server.start()
    assert server.post("").json == {
        "list": [[3.5, 4.0], [5.5, 6.0]],
        "dict": [4.0],
        "scalar": 4.0,
        "dtype": "float32",
        "version": [5.0],
        "model": [3.0],
        "sum": [8, 9],
        "no": [False, True],
        "strings": ["A", "B", "\u00e9"],
        "array of strings": "AB",
    }


PREDICT_FAULTS = [
    ("[-1.0]", 400, "x must not be negative"),
    ("['a']", 400, "input 'x' is of the type <U1; the model takes float32"),
    ("[1, [2]]", 400, "input 'x': "),
    ("[1j]", 400, "input 'x' is of the type complex128; the model takes float32"),
    ("{'z': 1}", 400, "signature 'serving_default' takes 'x'; given: 'z'"),
    ("[1], 'sum'", 400, "signature 'sum' takes 'a', 'b'; give a dict of them"),
    ("{'a': 1.5, 'b': 1}, 'sum'", 400, "input 'a' has values that are no int32"),
    ("{'a': 1 << 40, 'b': 1}, 'sum'", 400, "input 'a' has values that are no int32"),
    ("{'a': float('nan'), 'b': 1}, 'sum'", 400, "input 'a' has values that are no int32"),
    ("[1], 'no'", 400, "input 'yes' is of the type int64; the model takes bool"),
    ("[1], 'louder'", 400, "input 'text' has a value of the type int; the model takes str or bytes"),
    ("[['a'], []], 'louder'", 400, "input 'text'"),
    ("[1.0], 'none'", 400, "there is no signature 'none' in version 5 of model half_plus_three; it has "),
    ("[1.0], model_name='none'", 404, "Servable not found for request: Latest(none)"),
    ("[1.0], model_version=6", 404, "Servable not found for request: Specific(half_plus_three, 6)"),
]


def test_what_predict_refuses(server: Server) -> None:
    """A handler that does not catch it answers with its status."""
    server.write(
        "inference.py",
        "def handler(data, context):\n    return str(eval('context.predict(' + data.read().decode() + ')'))\n",
    )
    server.start()
    for arguments, status, message in PREDICT_FAULTS:
        answer = server.post(arguments)
        assert (answer.status, answer.json["error"][: len(message)]) == (status, message), arguments


def test_the_answer_that_output_handler_gets(server: Server) -> None:
    server.write(
        "inference.py",
        """
        import json

        def input_handler(data, context):
            return {"instances": json.loads(data.read())}

        def output_handler(data, context):
            said = [data.status_code, data.ok, data.reason, data.url == context.rest_uri, data.json(), len(data.text)]
            said += [data.headers["content-type"], data.headers.get("Content-Length"), "CONTENT-TYPE" in data.headers]
            try:
                data.raise_for_status()
            except OSError as error:
                said.append(str(error).split(" for url")[0])
            return json.dumps(said), "application/json"
        """,
    )
    server.start()
    answer = server.post("[1.0]").json
    assert answer == [200, True, "OK", True, {"predictions": [3.5]}, *answer[5:6], JSON, str(answer[5]), True]
    answer = server.post("[-1.0]").json
    assert answer[:3] == [400, False, "Bad Request"]
    assert (answer[4], answer[-1]) == ({"error": "x must not be negative"}, "400 Bad Request")


def test_headers_of_an_answer_know_no_case() -> None:
    answer = ModelAnswer("http://x", 200, b"\xff", {"Content-Type": JSON})
    assert answer.headers["CONTENT-type"] == answer.headers.get("content-type") == JSON
    assert answer.headers.get("none") is None
    assert answer.text == "\ufffd"


@pytest.mark.parametrize(
    "sent",
    [
        '{"instances": [1.0]}',
        "json.dumps({'instances': [1.0]})",
        "json.dumps({'instances': [1.0]}).encode()",
        "bytearray(b'{\"instances\": [1.0]}')",
        "data",
    ],
)
def test_what_input_handler_may_send(server: Server, sent: str) -> None:
    pair = "def output_handler(data, context):\n    return data.content, 'application/json'\n"
    server.write("inference.py", f"import json\ndef input_handler(data, context):\n    return {sent}\n{pair}")
    server.start()
    assert server.post('{"instances": [1.0]}').json == {"predictions": [3.5]}


# What they return


RESULTS: list[tuple[str, bytes, str]] = [
    ("b'\\xff', 'image/png'", b"\xff", "image/png"),
    ("'\u00e9', 'text/plain; charset=utf-8'", "\u00e9".encode(), "text/plain; charset=utf-8"),
    ("['a', 'text/csv']", b"a", "text/csv"),
    ("bytearray(b'a'), 'text/csv'", b"a", "text/csv"),
    ("'a'", b"a", "text/x"),
    ("b'a', None", b"a", "text/x"),
    ("'', 'text/csv'", b"", "text/csv"),
    ("'a', '*/*'", b"a", JSON),
    ("'a', 'text/*, image/png;q=0.5, text/csv'", b"a", "image/png"),
]


def test_results(server: Server) -> None:
    server.write("inference.py", "def handler(data, context):\n    return eval(data.read().decode())\n")
    server.start()
    for text, body, content_type in RESULTS:
        answer = server.post(text, Accept="text/x")
        assert (answer.status, answer.body, answer.content_type) == (200, body, content_type), text


FAULTS = [
    ("{}, 'a'", "handler returned a dict; expected a pair of a str or bytes and its content type"),
    ("None", "handler returned a NoneType; expected"),
    ("'a', 'b', 'c'", "handler returned a tuple; expected"),
    ("'a', 7", "handler returned 7 for a content type; expected such as 'application/json'"),
    ("'a', 'text/csv\\r\\nSet-Cookie: x'", "handler returned 'text/csv\\r\\nSet-Cookie: x' for a content type"),
    ("1 / 0", "division by zero"),
    ("{}['key']", "'key'"),
    ("raise_(NotImplementedError())", "NotImplementedError"),
    ("raise_(ValueError('{not json'))", "{not json"),
    ("raise_(RuntimeError('{\"a\": 1}'))", '{"a": 1}'),
    ("raise_(ValueError('\\udcff'))", "?"),
    ("raise_(SystemExit(3))", "the handler called sys.exit(3)"),
    ("raise_(KeyboardInterrupt())", "KeyboardInterrupt"),
]


def test_faults_of_handlers(server: Server) -> None:
    server.write(
        "inference.py",
        """
        def raise_(error):
            raise error

        def handler(data, context):
            return eval(data.read().decode())
        """,
    )
    server.start(SAGEMAKER_MODEL_SERVER_WORKERS="1")
    for text, message in FAULTS:
        answer = server.post(text)
        assert (answer.status, answer.content_type) == (500, JSON), text
        assert answer.json["error"][: len(message)] == message, text
    answer = server.post("""raise_(ValueError('{"code": 7, "error": "mine"}'))""")
    assert (answer.status, answer.json) == (500, {"code": 7, "error": "mine"})
    assert server.log.count("Traceback") >= len(FAULTS)
    assert 'inference.py", line 3, in raise_' in server.log
    assert server.post("'fine'").body == b"fine"


def test_a_pair_that_returns_something_else(server: Server) -> None:
    server.write("inference.py", "def input_handler(data, context): return 7\ndef output_handler(*_): return 1\n")
    server.start()
    assert server.post("").json == {"error": "input_handler returned a int; expected a str, bytes or a dict"}


# How they run


def test_a_slow_handler_hinders_nobody(server: Server) -> None:
    server.write(
        "inference.py",
        """
        import time, pathlib
        seen = []

        def handler(data, context):
            text = data.read().decode()
            seen.append(text)
            if text != "quick":
                while not pathlib.Path(text).exists():
                    time.sleep(0.01)
            return str(len(seen))
        """,
    )
    server.start()
    go = server.root / "go"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        slow = [pool.submit(server.post, str(go)) for _ in range(3)]
        wait_until(lambda: int(server.post("quick").body) > 3, "slow handlers are at work")
        assert server.get("/ping").status == 200
        assert not any(each.done() for each in slow)
        go.touch()
        assert all(each.result().status == 200 for each in slow)


def test_no_more_handlers_at_once_than_are_set(server: Server) -> None:
    server.write(
        "inference.py",
        """
        import threading
        lock = threading.Lock()

        def handler(data, context):
            if not lock.acquire(blocking=False):
                raise RuntimeError("two at once")
            try:
                return context.predict([1.0])["y"].tobytes()
            finally:
                lock.release()
        """,
    )
    server.start(SAGEMAKER_GUNICORN_WORKERS="1", SAGEMAKER_GUNICORN_THREADS="1")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert {answer.status for answer in pool.map(lambda _: server.post(""), range(64))} == {200}


def test_a_handler_that_never_ends(server: Server) -> None:
    """Its request is answered in time, and its thread, the only one, is replaced."""
    server.write(
        "inference.py",
        """
        import pathlib, time

        def handler(data, context):
            text = data.read().decode()
            while text and not pathlib.Path(text).exists():
                time.sleep(0.01)
            return "fine"
        """,
    )
    server.start(SAGEMAKER_MODEL_SERVER_WORKERS="1", SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS="1")
    go = server.root / "go"
    answer = server.post(str(go))
    assert (answer.status, answer.content_type) == (504, JSON)
    assert "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS" in answer.json["error"]
    assert "the handler of a request that was given up goes on" in server.log
    assert server.post("").body == b"fine"
    go.touch()
    wait_until(lambda: "the handler of a request that was given up has ended" in server.log, "the handler ends")
    assert server.post("").body == b"fine"


def test_state_and_output_stay(server: Server) -> None:
    server.write(
        "inference.py",
        """
        import sys
        count = 0

        def handler(data, context):
            global count
            count += 1
            print("number", count)
            print("to stderr", file=sys.stderr)
            return str(count)
        """,
    )
    server.start()
    assert [server.post("").body for _ in range(3)] == [b"1", b"2", b"3"]
    assert server.printed == "number 1\nnumber 2\nnumber 3\n"
    assert server.log.count("to stderr\n") == 3


def test_the_program_is_a_module_of_its_name(server: Server) -> None:
    server.write("helper.py", "import inference\nCount = 7\n")
    server.write(
        "inference.py",
        """
        from __future__ import annotations
        import dataclasses, pickle

        @dataclasses.dataclass
        class Record:
            text: str

        def handler(data, context):
            import helper
            return pickle.loads(pickle.dumps(Record(f"{__name__} {helper.Count} {helper.inference.__name__}"))).text
        """,
    )
    server.start()
    assert server.post("").body == b"inference 7 inference"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def input_handler(d, c): ...", "defines input_handler but no output_handler; define both, or handler"),
        ("def output_handler(d, c): ...", "defines output_handler but no input_handler; define both, or handler"),
        ("handler = 7", "defines no handler; define handler, or input_handler and output_handler"),
        ("", "defines no handler; define handler, or input_handler and output_handler"),
        ("async def handler(d, c): ...", ": handler is an async def; make it a def, which has its own thread"),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit('enough')", "cannot be imported: SystemExit: enough"),
        ("def handler(:", "cannot be imported: SyntaxError: "),
        (
            "import notthere",
            "cannot be imported: ModuleNotFoundError: No module named 'notthere'; name what holds it in",
        ),
    ],
)
def test_a_program_without_handlers_ends_the_start(server: Server, text: str, message: str) -> None:
    program = server.write("inference.py", text)
    server.begin()
    assert server.ends() == 126
    last = server.log.splitlines()[-1]
    assert last.startswith("ERROR") and str(program) in last and message in last, server.log
    assert ("Traceback" in server.log) == ("cannot be imported" in message)


def test_handler_wins_over_the_pair(server: Server) -> None:
    pair = "def input_handler(d, c): 1 / 0\ndef output_handler(d, c): 1 / 0\n"
    server.write("inference.py", pair + ECHO)
    server.start()
    assert server.post("a", "x/y") == Answer(200, "x/y", b"a")


def test_a_logging_handler_is_no_handler(server: Server) -> None:
    text = (HANDLERS / "pair.py").read_text()
    server.write("inference.py", f"import logging\nhandler = logging.StreamHandler()\n{text}")
    server.start()
    assert server.post('{"instances": [1.0]}').json == {"predictions": [3.5]}


# Dependencies


def test_lib_comes_after_code(server: Server) -> None:
    """The SDK copies a folder called lib, which its documentation asks for, to code/lib/lib."""
    for name in ("", "lib/", "lib/lib/"):
        server.write(f"{name}first.py", f"place = {name!r}\n")
    for name in ("lib/", "lib/lib/"):
        server.write(f"{name}second.py", f"place = {name!r}\n")
    server.write("lib/lib/third.py", "place = 'lib/lib/'\n")
    server.write(
        "inference.py",
        "import first, second, third\n"
        "def handler(data, context): return ' '.join([first.place, second.place, third.place])\n",
    )
    file = server.write("requirements.txt", "nothere\n")
    server.start()
    assert server.post("").body == b" lib/ lib/lib/"
    assert f"WARNING {file} is ignored, for there is {file.parent / 'lib'}\n" in server.log


# Code that is kept apart, as on a server of many models


def code_of(folder: Path, **files: str) -> ModelCode:
    for name, text in files.items():
        path = folder / "code" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    code = model_code.find(folder, {})
    assert code is not None
    return code


def test_a_module_that_the_server_has_is_not_had_twice(tmp_path: Path) -> None:
    inference = f"import logging\nlogging.getLogger()\n{ECHO}"
    code = code_of(tmp_path, logging="raise SystemExit\n", inference=inference)
    before, path = set(sys.modules), list(sys.path)
    Handlers(code, HandlerThreads(1), apart=True)
    assert (set(sys.modules) - before, sys.path) == (set(), path)


def test_a_failed_import_leaves_nothing(tmp_path: Path) -> None:
    code = code_of(tmp_path, helper_of_nothing="", inference="import helper_of_nothing, notthere\n")
    before, path, finders = set(sys.modules), list(sys.path), list(sys.meta_path)
    with pytest.raises(ExecuteUserScriptError):
        Handlers(code, HandlerThreads(1), apart=True)
    assert (set(sys.modules) - before, sys.path, sys.meta_path) == (set(), path, finders)
