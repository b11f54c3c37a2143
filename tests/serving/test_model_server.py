"""Models behind tensorflow_model_server: a stand-in for it is started, asked, watched, and started again when it ends.

The stand-in is tests/programs/tensorflow_model_server.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import DEADLINE, PROGRAMS, wait_until
from hosts import free_ports
from serve_process import Answer, Server, answer, serving
from signatures import FLOAT, STRING, default, tensor
from test_hardware import is_running
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.serving import model_server_client
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import ModelError, ModelRunError
from tf_toolkit.serving.model_server_command import Ports, Start, Starts
from tf_toolkit.serving.model_server_engine import ModelServerEngine
from tf_toolkit.serving.model_server_process import ModelServerProcess
from tf_toolkit.serving.settings import read_settings
from tf_toolkit.serving.signature import DEFAULT_SIGNATURE, DataType, TensorInfo

NO_MODEL, WRONG_SETTING = 66, 78
MODEL = "x-amzn-sagemaker-custom-attributes"
Inputs = Mapping[str, Array]


class StandIn:
    """The folder that the stand-in reads and writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "bin" / "tensorflow_model_server").symlink_to(PROGRAMS / "tensorflow_model_server")

    @property
    def environ(self) -> dict[str, str]:
        return {
            "SAGEMAKER_TFS_BACKEND": "tensorflow_model_server",
            "STAND_IN": str(self.folder),
            # What a killed server leaves behind lies here.
            "TMPDIR": str(self.folder),
            # `env python3` in its first line is this Python.
            "PATH": f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    @property
    def starts(self) -> list[dict[str, Any]]:
        file = self.folder / "starts"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def pid(self) -> int:
        """Of the latest."""
        pid: int = self.starts[-1]["pid"]
        return pid

    @property
    def requests(self) -> list[bytes]:
        return (self.folder / "requests").read_bytes().splitlines()

    def fault(self, word: str) -> None:
        """What goes wrong from now on; nothing, if the word is empty."""
        (self.folder / "new").write_text(word)
        (self.folder / "new").rename(self.folder / "fault")


@contextlib.contextmanager
def behind(
    folder: Path, models: Mapping[str, Path], fault: str = "", ready: bool = True, **environ: str
) -> Iterator[tuple[Server, StandIn]]:
    """A server with the stand-in behind it."""
    stand_in = StandIn(folder / "stand-in")
    stand_in.fault(fault)
    first = free_ports(10)
    ports = {"SAGEMAKER_SAFE_PORT_RANGE": f"{first}-{first + 9}"}
    with serving(folder / "ml", models, ready, **{**stand_in.environ, **ports, **environ}) as server:
        server.rest_port = first + 1
        yield server, stand_in


# One server that does what it should.


@pytest.fixture(scope="module")
def both(saved_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, StandIn]]:
    models = {name: saved_models / name for name in ("half_plus_two", "identities", "many", "vocabulary")}
    with behind(
        tmp_path_factory.mktemp("model_server"),
        models,
        SAGEMAKER_TFS_ENABLE_BATCHING="true",
        SAGEMAKER_TFS_MAX_BATCH_SIZE="16",
        SAGEMAKER_TFS_INTRA_OP_PARALLELISM="3",
        SAGEMAKER_TFS_INTER_OP_PARALLELISM="2",
        SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS="120",
        SAGEMAKER_TFS_EXTRA_FLAGS="--rest_api_num_threads=5 '--model_of=$(a b)'",
    ) as (server, stand_in):
        yield server, stand_in


@pytest.fixture
def server(both: tuple[Server, StandIn]) -> Server:
    return both[0]


def test_it_is_started_as_the_settings_say(both: tuple[Server, StandIn]) -> None:
    server, stand_in = both
    (start,) = stand_in.starts
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in start["argv"])
    config, batching = flags.pop("model_config_file"), flags.pop("batching_parameters_file")
    assert flags == {
        # Beside our own.
        "port": str(server.rest_port - 1),
        "rest_api_port": str(server.rest_port + 1),
        "max_num_load_retries": "0",
        "rest_api_timeout_in_ms": "120000",
        "enable_batching": "true",
        "tensorflow_intra_op_parallelism": "3",
        "tensorflow_inter_op_parallelism": "2",
        "rest_api_num_threads": "5",
        "model_of": "$(a b)",
    }
    models = start["config"]["model_config_list"][0]["config"]
    assert [model["name"] for model in models] == [["half_plus_two"], ["identities"], ["many"], ["vocabulary"]]
    assert models[0]["base_path"] == [f"{server.root}/model/half_plus_two"]
    assert models[0]["model_version_policy"] == [{"specific": [{"versions": [1]}]}]
    assert start["batching"]["max_batch_size"] == [{"value": [16]}]
    assert set(start["batching"]) == {
        *("max_batch_size", "batch_timeout_micros", "num_batch_threads", "max_enqueued_batches")
    }
    assert start["environ"] == {"CUDA_VISIBLE_DEVICES": None, "OMP_NUM_THREADS": "1"}
    assert Path(config).parent == Path(batching).parent
    # What it says is in our log.
    assert "tensorflow_model_server: unknown argument: --model_of=$(a b)" in server.log


def test_the_models_are_warm_before_ping_says_so(both: tuple[Server, StandIn]) -> None:
    server, stand_in = both
    assert server.get("/ping").status == 200
    assert any(b"half_plus_two/versions/1:predict" in request for request in stand_in.requests)


@pytest.mark.parametrize(
    ("content_type", "body", "accept", "expected"),
    [
        ("application/json", '{"instances": [1.0, 2.0, 5.0]}', "", b'{"predictions":[2.5,3.0,4.5]}'),
        ("application/json", '{"inputs": [[1.0], [2.0]]}', "", b'{"outputs":[[2.5],[3.0]]}'),
        ("application/json", "[1.0, NaN, -Infinity]", "", b'{"predictions":[[2.5,NaN,-Infinity]]}'),
        ("application/jsonlines", "[1.0]\n[2.0]\n", "application/jsonlines", b"[2.5]\n[3.0]"),
        ("text/csv", "1.0\n2.0\n", "text/csv", b"2.5\n3.0"),
    ],
)
def test_conversions_are_in_front(server: Server, content_type: str, body: str, accept: str, expected: bytes) -> None:
    headers = {"Content_Type": content_type, **({"Accept": accept} if accept else {})}
    found = server.invoke(body, **headers)
    assert (found.status, found.body) == (200, expected), found


def test_arrays_in_numpys_format(server: Server) -> None:
    sent = io.BytesIO()
    np.save(sent, np.array([[1.0], [2.0]], "float32"))
    found = server.invoke(sent.getvalue(), Content_Type="application/x-npy", Accept="application/x-npy")
    assert np.load(io.BytesIO(found.body)).tolist() == [[2.5], [3.0]]


def ask(server: Server, path: str, document: object) -> Answer:
    return server.ask("POST", f"/v1/models/{path}", json.dumps(document))


@pytest.mark.parametrize(
    ("path", "document", "expected"),
    [
        (
            "half_plus_two:regress",
            {"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]},
            {"results": [2.5, 3.0]},
        ),
        (
            "half_plus_two/versions/1:classify",
            {"signature_name": "classify_labels", "examples": [{"x": 1.0}]},
            {"results": [[["zero", 2.5], ["one", 3.5]]]},
        ),
        ("vocabulary:predict", {"instances": ["cow", {"b64": "YmVl"}, "gnu"]}, {"predictions": [2, 1, -1]}),
        (
            "many:predict",
            {"signature_name": "rows", "instances": [{"a": [1.0, 2.0, 3.0], "b": 10}]},
            {"predictions": [{"both": [11.0, 12.0, 13.0], "sum": 6.0, "twice": 20}]},
        ),
        (
            "many:predict",
            {"signature_name": "rows", "inputs": {"a": [[1.0, 2.0, 3.0]], "b": [10]}, "output_filter": ["twice"]},
            {"outputs": [20]},
        ),
        ("many:predict", {"signature_name": "scaled", "inputs": {"a": [[1.0], [2.0]], "factor": 3.0}}, [[3.0], [6.0]]),
        ("many:predict", {"signature_name": "shout", "instances": ["größer"]}, [{"length": 8, "loud": "GRößER"}]),
    ],
)
def test_the_rest_api_is_in_front(server: Server, path: str, document: object, expected: object) -> None:
    found = ask(server, path, document)
    assert found.status == 200, found
    assert expected in (found.json, *found.json.values())


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("float32", [0.1, -0.0, 3.4028234e38, 1e-45, 16777216.0]),
        ("float64", [0.1, 1.7976931348623157e308, 5e-324, 123456789.125]),
        ("int8", [-128, 127]),
        ("int16", [-32768, 32767]),
        ("int32", [-(2**31), 2**31 - 1]),
        ("int64", [-(2**63), 2**63 - 1]),
        ("uint8", [0, 255]),
        ("uint32", [0, 2**32 - 1]),
        ("uint64", [0, 2**64 - 1]),
        ("bool", [True, False]),
        ("string", ["", "a", '"\\\n\0', "größer", "\U0001f600"]),
        ("float32", [[[]], [[]]]),
        ("float32", 1.5),
        ("string", "one"),
    ],
)
def test_values_come_back_as_they_went(server: Server, dtype: str, values: Any) -> None:
    found = ask(server, "identities:predict", {"signature_name": dtype, "inputs": values})
    assert found.status == 200, found
    numpy_type = object if dtype == "string" else dtype
    came, went = (np.array(each, numpy_type).tolist() for each in (found.json["outputs"]["y"], values))
    # Which tells -0.0 from 0.0.
    assert repr(came) == repr(went)


@pytest.mark.parametrize("dtype", ["float16", "uint16"])
def test_what_its_api_does_not_carry_is_refused_with_the_remedy(server: Server, dtype: str) -> None:
    found = ask(server, "identities:predict", {"signature_name": dtype, "inputs": [1]})
    assert found.status == 501
    assert "which the REST API of tensorflow_model_server does not carry" in found.error
    assert "unset SAGEMAKER_TFS_BACKEND" in found.error


def test_bytes_of_an_output_that_is_text_are_refused_with_the_remedy(server: Server) -> None:
    found = ask(server, "identities:predict", {"signature_name": "string", "inputs": [{"b64": "/w=="}]})
    assert found.status == 500
    assert "outputs with names that end in _bytes" in found.error


def test_what_the_model_refuses_has_its_status_and_its_words(server: Server) -> None:
    found = ask(server, "many:predict", {"signature_name": "positive", "instances": [-1.0]})
    assert found.status == 400
    assert "a must not be negative" in found.error
    found = ask(server, "many:predict", {"signature_name": "rows", "inputs": {"a": [[1.0], [2.0], [3.0]], "b": [1, 2]}})
    assert found.status == 400
    assert "a is [3,1], but signature 'rows' expects" in found.error


def test_metrics_say_that_it_is_up(server: Server) -> None:
    lines = server.get("/metrics").body.decode().splitlines()
    assert 'tf_toolkit_model_server_up{instance="0"} 1' in lines
    assert 'tf_toolkit_model_server_crashes_total{instance="0"} 0' in lines


# What goes wrong while it runs.


@pytest.fixture(scope="module")
def frail(saved_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, StandIn]]:
    models = {"half_plus_two": saved_models / "half_plus_two"}
    folder = tmp_path_factory.mktemp("frail")
    with behind(folder, models, SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS="2") as both:
        yield both


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        ("no JSON", 500, "answered what cannot be read: JSON Parse error: Invalid value. at offset: 0: 'rubbish'"),
        ("no HTTP", 500, "tensorflow_model_server answered what is no HTTP: BadStatusLine"),
        ("cut off", 503, "tensorflow_model_server broke the connection: IncompleteRead"),
        ("hang up", 503, "tensorflow_model_server broke the connection: Remote end closed connection"),
        ("other outputs", 500, "output y is not of the type DT_FLOAT"),
        ("other type", 500, "output y is not of the type DT_FLOAT"),
        ("page", 500, "answered what cannot be read: status 502: '<html>Bad Gateway</html>'"),
        ("too much", 429, "too many requests in the queue"),
        ("hang", 504, "2 s, which SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS sets"),
    ],
)
def test_a_bad_answer_is_an_error_that_says_so(
    frail: tuple[Server, StandIn], fault: str, status: int, message: str
) -> None:
    server, stand_in = frail
    stand_in.fault(fault)
    found = server.invoke("[1.0]")
    stand_in.fault("")
    assert (found.status, message in found.error) == (status, True), found
    assert server.invoke("[1.0]").status == 200
    assert len(stand_in.starts) == 1


def test_it_is_started_again_and_what_it_died_of_is_said(saved_models: Path, tmp_path: Path) -> None:
    with behind(tmp_path, {"half_plus_two": saved_models / "half_plus_two"}) as (server, stand_in):
        # While it has nothing to do: the next start comes at once, and hangs.
        stand_in.fault("hang at the start")
        os.kill(stand_in.pid, signal.SIGKILL)
        died = "tensorflow_model_server was killed by SIGKILL; it is being started again (crashes: 1)"
        wait_until(lambda: server.get("/ping").status == 503, "ping says so")
        assert server.get("/ping").error == died
        refused = server.invoke("[1.0]")
        assert (refused.status, refused.error) == (503, died)
        metrics = server.get("/metrics").body.decode()
        assert 'tf_toolkit_model_server_up{instance="0"} 0' in metrics
        assert 'tf_toolkit_model_server_crashes_total{instance="0"} 1' in metrics

        # It does not start any more: the starts are further and further apart.
        wait_until(lambda: len(stand_in.starts) == 2, "it is started again")
        stand_in.fault("refuse")
        os.kill(stand_in.pid, signal.SIGKILL)
        refuses = "ended with status 255 (Failed to start server. Error: INVALID_ARGUMENT: it does not want to); "
        wait_until(lambda: refuses in server.get("/ping").error, "ping says why")
        wait_until(lambda: f"{refuses}it is started again in 2 s" in server.log, "the next start is further off")

        # During a request.
        stand_in.fault("")
        server.wait_until_ready()
        assert server.invoke("[1.0]").json == {"predictions": [[2.5]]}
        stand_in.fault("die")
        found = server.invoke("[1.0]")
        assert (found.status, found.error) == (
            503,
            "tensorflow_model_server was killed by SIGKILL while it was to answer; it is being started again",
        )
        stand_in.fault("")


# Starts and ends.


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "refuse",
            "tensorflow_model_server ended with status 255 (Failed to start server. Error: INVALID_ARGUMENT: it does "
            "not want to); its models were not loaded",
        ),
        ("no status", "answered GET /v1/models/half_plus_two by no status of a model, but by 200: '<html>not what you"),
        ("die", "tensorflow_model_server was killed by SIGKILL; its models were not loaded"),
        ("hang at the start", "did not load within 1 s, which SAGEMAKER_TFS_WAIT_TIME_SECONDS sets"),
    ],
)
def test_what_does_not_start_ends_the_start(saved_models: Path, tmp_path: Path, fault: str, message: str) -> None:
    seconds = "1" if fault == "hang at the start" else ""
    models = {"half_plus_two": saved_models / "half_plus_two"}
    with behind(tmp_path, models, fault, ready=False, SAGEMAKER_TFS_WAIT_TIME_SECONDS=seconds) as (server, stand_in):
        assert server.ended() == NO_MODEL
    (line,) = [line for line in server.log.splitlines() if " ERROR " in line]
    assert message in line
    assert all(not is_running(start["pid"]) for start in stand_in.starts)


def test_a_model_that_it_cannot_load_ends_the_start(saved_models: Path, tmp_path: Path) -> None:
    copy = tmp_path / "digits"
    shutil.copytree(saved_models / "digits", copy)
    (data,) = (copy / "1" / "variables").glob("variables.data-*")
    data.write_bytes(data.read_bytes()[:10])
    with behind(tmp_path, {"digits": copy}, ready=False) as (server, _):
        assert server.ended() == NO_MODEL
    (line,) = [line for line in server.log.splitlines() if " ERROR " in line]
    assert f"{server.root}/model/digits/1: tensorflow_model_server ended with status 255" in line
    assert "1 servable(s) did not become available" in line


def test_term_ends_one_that_hangs_at_the_start(saved_models: Path, tmp_path: Path) -> None:
    models = {"half_plus_two": saved_models / "half_plus_two"}
    with behind(tmp_path, models, "hang at the start", ready=False) as (server, stand_in):
        wait_until(lambda: stand_in.starts and "listening on ports" in server.log, "it is being started, and we listen")
        ping = server.get("/ping")
        assert (ping.status, ping.error) == (503, "version 1 of model half_plus_two is in state LOADING")
        # It does not even hear of TERM.
        os.kill(stand_in.pid, signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        assert server.ended() == 0
        assert not is_running(stand_in.pid)


def test_term_lets_what_is_in_flight_end_before_it(slow_model: Path, tmp_path: Path) -> None:
    with behind(tmp_path, {"slow": slow_model}) as (server, stand_in):
        config = stand_in.starts[0]["argv"][2].partition("=")[2]
        body = b'{"instances": [3.0]}'
        with contextlib.closing(server.connect()) as connection:
            connection.sendall(b"POST /invocations HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            wait_until(lambda: any(body[-6:-1] in line for line in stand_in.requests), "it is at work")
            server.signal(signal.SIGTERM)
            assert answer(connection).json == {"predictions": [3.0]}
        assert server.ended() == 0
        assert not is_running(stand_in.pid)
        assert not Path(config).parent.exists()
        assert "started again" not in server.log


def test_it_dies_with_the_server(saved_models: Path, tmp_path: Path) -> None:
    """Without a range of ports it has got any that are free."""
    models = {"half_plus_two": saved_models / "half_plus_two"}
    with behind(tmp_path, models, SAGEMAKER_SAFE_PORT_RANGE="") as (server, stand_in):
        assert server.invoke("[1.0]").status == 200
        server.signal(signal.SIGKILL)
        server.ended()
        wait_until(lambda: not is_running(stand_in.pid), "it is gone")


def test_several_share_the_gpus_and_one_is_enough(saved_models: Path, tmp_path: Path) -> None:
    """And handlers are in front of them as of one."""
    model = tmp_path / 'half "plus" tüwo'
    shutil.copytree(saved_models / "half_plus_two", model)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text(
        "def handler(data, context):\n"
        "    answer = context.predict([[float(data.read())]])['y'].tolist()\n"
        "    return str(answer), 'text/plain'\n"
    )
    two_gpus(tmp_path / "stand-in")
    models = {model.name: model, "code": tmp_path / "code"}
    with behind(tmp_path, models, SAGEMAKER_TFS_INSTANCE_COUNT="3") as (server, stand_in):
        starts = stand_in.starts
        assert sorted(start["environ"]["CUDA_VISIBLE_DEVICES"] for start in starts) == ["0", "0", "1"]
        assert {start["argv"][-1] for start in starts} == {"--per_process_gpu_memory_fraction=0.2667"}
        ports = [int(flag.partition("=")[2]) for start in starts for flag in start["argv"][:2]]
        first = server.rest_port - 1
        assert sorted(ports) == [first, *range(first + 2, first + 7)]

        stand_in.fault("refuse")
        for start in starts[:2]:
            os.kill(start["pid"], signal.SIGKILL)
        wait_until(lambda: server.get("/metrics").body.count(b'_up{instance="') == 3, "all are counted")
        wait_until(lambda: _up(server) == 1, "two are down")
        assert server.get("/ping").status == 200
        assert server.invoke("1.0").body == b"[[2.5]]"
        os.kill(starts[2]["pid"], signal.SIGKILL)
        wait_until(lambda: server.get("/ping").status == 503, "none is left")
        wait_until(lambda: "tensorflow_model_server 2 was killed by SIGKILL" in server.log, "it is told in the log")
        stand_in.fault("")
        server.wait_until_ready()
        assert server.invoke("1.0").body == b"[[2.5]]"


def two_gpus(stand_in: Path) -> None:
    smi = stand_in / "bin" / "nvidia-smi"
    smi.parent.mkdir(parents=True, exist_ok=True)
    smi.write_text("#!/bin/sh\nprintf 'GPU 0: a\\nGPU 1: b\\n'\n")
    smi.chmod(0o755)


def _up(server: Server) -> int:
    lines = server.get("/metrics").body.decode().splitlines()
    return sum(int(line[-1]) for line in lines if line.startswith("tf_toolkit_model_server_up"))


# Without serve.


def first_start(process: ModelServerProcess) -> None:
    try:
        process.first_start.result(DEADLINE)
    finally:
        process.end(signal.SIGKILL)
        assert process.join(DEADLINE)


def test_one_that_dies_in_its_warm_up_is_asked_no_more(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    script = f"until test -e {shlex.quote(str(asked))}; do sleep 0.01; done; exit 3"
    requests = []

    def warm_up(ask: Callable[..., Any]) -> None:
        for number in range(3):
            requests.append(number)
            asked.touch()
            with contextlib.suppress(ModelRunError):
                ask("POST", "/", None)

    def start() -> Start:
        first = free_ports(2)
        return Start(["sh", "-c", script], os.environ, Ports(first, first + 1))

    with pytest.raises(ModelError, match=r"^it ended with status 3 \(it said nothing\); its models were not loaded$"):
        first_start(ModelServerProcess("it", start, {}, warm_up, DEADLINE, None))
    assert requests == [0]


def test_what_the_system_refuses_ends_the_start() -> None:
    def start() -> Start:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with pytest.raises(ModelError, match=r"^it cannot start: Too many open files; its models were not loaded$"):
        first_start(ModelServerProcess("it", start, {}, lambda ask: None, DEADLINE, None))


# Settings.


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"SAGEMAKER_TFS_BACKEND": "tfs"},
            "SAGEMAKER_TFS_BACKEND is 'tfs'; expected embedded or tensorflow_model_server",
        ),
        (
            {"PATH": "/nowhere"},
            "SAGEMAKER_TFS_BACKEND is tensorflow_model_server, which is not on PATH; install it, or unset "
            "SAGEMAKER_TFS_BACKEND: serve runs models itself",
        ),
        (
            {"SAGEMAKER_MULTI_MODEL": "true"},
            "SAGEMAKER_TFS_BACKEND is tensorflow_model_server, and SAGEMAKER_MULTI_MODEL is true: models that come and "
            "go run in serve's own process only; unset one of the two",
        ),
        ({"SAGEMAKER_TFS_INSTANCE_COUNT": "0"}, "SAGEMAKER_TFS_INSTANCE_COUNT is '0'; expected a whole number from 1"),
        (
            {"SAGEMAKER_TFS_FRACTIONAL_GPU_MEM_MARGIN": "1"},
            "SAGEMAKER_TFS_FRACTIONAL_GPU_MEM_MARGIN is '1'; expected a number from 0 to below 1",
        ),
        (
            {"SAGEMAKER_TFS_FRACTIONAL_GPU_MEM_MARGIN": "nan"},
            "SAGEMAKER_TFS_FRACTIONAL_GPU_MEM_MARGIN is 'nan'; expected a number from 0 to below 1",
        ),
        (
            {"SAGEMAKER_TFS_EXTRA_FLAGS": "--a=1 b"},
            "SAGEMAKER_TFS_EXTRA_FLAGS has 'b'; expected such as --rest_api_num_threads=16",
        ),
        (
            {"SAGEMAKER_TFS_EXTRA_FLAGS": "--a='1"},
            "SAGEMAKER_TFS_EXTRA_FLAGS cannot be split as a shell would: No closing quotation",
        ),
        (
            {"SAGEMAKER_TFS_EXTRA_FLAGS": "a=hidden"},
            "SAGEMAKER_TFS_EXTRA_FLAGS has 'a'; expected such as --rest_api_num_threads=16",
        ),
        (
            {"SAGEMAKER_TFS_EXTRA_FLAGS": "--port=1"},
            "SAGEMAKER_TFS_EXTRA_FLAGS has '--port', which serve sets itself; leave it out",
        ),
    ],
)
def test_a_setting_that_cannot_be_obeyed_is_named(environ: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(JobDescriptionError) as raised:
        read_settings({**StandIn(tmp_path / "stand-in").environ, **environ})
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_of_several_each_has_one_of_the_gpus_that_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn(tmp_path / "stand-in")
    two_gpus(stand_in.folder)
    for name, value in {**stand_in.environ, "CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a"}.items():
        monkeypatch.setenv(name, value)
    settings = read_settings({**os.environ, "SAGEMAKER_TFS_INSTANCE_COUNT": "3"})
    assert settings.model_server is not None
    starts = Starts(settings, settings.model_server, [])
    assert [starts.of(number).environ["CUDA_VISIBLE_DEVICES"] for number in range(3)] == ["GPU-b", "GPU-a", "GPU-b"]
    starts.close()


def test_models_run_in_the_server_unless_it_is_asked_for(tmp_path: Path) -> None:
    environ = StandIn(tmp_path / "stand-in").environ
    assert read_settings({**environ, "SAGEMAKER_TFS_BACKEND": ""}).model_server is None
    assert read_settings({**environ, "SAGEMAKER_TFS_BACKEND": "embedded"}).model_server is None
    model_server = read_settings(environ).model_server
    assert model_server is not None
    assert model_server[1:] == (1, 0.2, (), None)


def test_too_few_ports_end_the_start(saved_models: Path, tmp_path: Path) -> None:
    first = free_ports(4)
    ports = {"SAGEMAKER_SAFE_PORT_RANGE": f"{first}-{first + 3}", "SAGEMAKER_BIND_TO_PORT": str(first)}
    models = {"half_plus_two": saved_models / "half_plus_two"}
    with behind(tmp_path, models, ready=False, SAGEMAKER_TFS_INSTANCE_COUNT="2", **ports) as (server, _):
        assert server.ended() == WRONG_SETTING
    assert (
        f"SAGEMAKER_SAFE_PORT_RANGE is {first}-{first + 3}: beside serve's own ports it has 2, and 4 are needed, two "
        "for each tensorflow_model_server; give a larger range"
    ) in server.log


# JSON, without a process.


def run(
    inputs: Mapping[str, TensorInfo], outputs: Mapping[str, TensorInfo], arrays: Inputs, body: str, status: int = 200
) -> tuple[Any, dict[str, Array]]:
    """What the engine sends, and what it makes of an answer."""
    sent: list[Any] = []

    def ask(method: str, path: str, request: bytes | None) -> model_server_client.Answer:
        assert (method, path) == ("POST", "/v1/models/m/versions/1:predict")
        assert request is not None
        sent.append(json.loads(request))
        return model_server_client.Answer(status, body.encode())

    engine = ModelServerEngine(default(inputs, outputs), "/v1/models/m/versions/1", ask)
    return sent, engine.run(DEFAULT_SIGNATURE, arrays)


FLOATS = np.array([1.0], "float32")


def test_bytes_go_as_base64_and_come_so() -> None:
    text = np.array([b"a", b"\xff"], object)
    (sent,), found = run(
        {"image_bytes": tensor(STRING), "text": tensor(STRING)},
        {"a_bytes": tensor(STRING), "b": tensor(STRING)},
        {"image_bytes": text, "text": text},
        '{"outputs": {"a_bytes": [{"b64": "/w=="}], "b": ["x"]}}',
    )
    assert sent["inputs"] == {"image_bytes": [{"b64": "YQ=="}, {"b64": "/w=="}], "text": ["a", {"b64": "/w=="}]}
    assert (found["a_bytes"].tolist(), found["b"].tolist()) == ([b"\xff"], [b"x"])


def test_an_input_called_b64_is_no_encoded_string() -> None:
    value = np.array(b"text", object)
    (sent,), found = run({"b64": tensor(STRING, ())}, {"y": tensor(STRING, ())}, {"b64": value}, '{"outputs": "z"}')
    assert sent["inputs"] == "text"
    assert found["y"].tolist() == b"z"


@pytest.mark.parametrize(
    ("shape", "outputs", "expected"),
    [((-1, 3), "[]", (0, 3)), ((-1, -1, 4), "[[]]", (1, 0, 4)), ((-1, -1), "[]", (0, 0)), (None, "[[]]", (1, 0))],
)
def test_nothing_has_the_shape_of_the_signature(
    shape: tuple[int, ...] | None, outputs: str, expected: tuple[int, ...]
) -> None:
    _, found = run({"x": tensor(FLOAT)}, {"y": tensor(FLOAT, shape)}, {"x": FLOATS}, f'{{"outputs": {outputs}}}')
    assert found["y"].shape == expected


def test_a_shape_that_json_cannot_say_is_refused() -> None:
    with pytest.raises(ModelRunError, match=r"'x' is of the shape \[0, 3\], which no JSON can say") as raised:
        run({"x": tensor(FLOAT)}, {"y": tensor(FLOAT)}, {"x": np.zeros((0, 3), "float32")}, "")
    assert raised.value.status == 501


@pytest.mark.parametrize("dtype", [DataType.DT_HALF, DataType.DT_BFLOAT16, DataType.DT_COMPLEX64, DataType.DT_UINT16])
def test_outputs_that_are_not_carried_are_not_asked_for(dtype: DataType) -> None:
    with pytest.raises(ModelRunError, match=f"'y' is of the type {dtype.name}, which") as raised:
        run({"x": tensor(FLOAT)}, {"y": tensor(dtype)}, {"x": FLOATS}, "")
    assert raised.value.status == 501


def test_an_output_of_an_inputs_name_hides_none() -> None:
    with pytest.raises(ModelRunError, match="'x' is of the type DT_HALF, which"):
        run({"x": tensor(DataType.DT_HALF)}, {"x": tensor(FLOAT)}, {"x": FLOATS}, "")


@pytest.mark.parametrize("status", [400, 404, 413, 429, 500, 503, 504])
def test_an_error_has_the_status_that_it_came_with(status: int) -> None:
    with pytest.raises(ModelRunError) as raised:
        run({"x": tensor(FLOAT)}, {"y": tensor(FLOAT)}, {"x": FLOATS}, '{\n "error": "no"\n}', status)
    assert (raised.value.status, raised.value.message) == (status, "no")


@pytest.mark.parametrize("array", [np.array([1.0]), np.array(["a"], object), np.array([1])])
def test_an_array_of_another_type_is_refused(array: Array) -> None:
    with pytest.raises(ModelRunError, match=r"input 'x' is of the type .*; the model takes float32"):
        run({"x": tensor(FLOAT)}, {"y": tensor(FLOAT)}, {"x": array}, "")
