"""The program's life: how it starts, says what it serves, refuses what it cannot, and ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import DEADLINE, PROGRAMS, wait_until
from serve_process import Server, answer, serving
from test_hardware import real_cgroup
from tf_toolkit.contract import TOOLKIT_FAULT

NO_MODEL, WRONG_SETTING = 66, 78


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "ml"


@pytest.fixture
def half_plus_two(saved_models: Path) -> dict[str, Path]:
    return {"half_plus_two": saved_models / "half_plus_two"}


def ask_slowly(server: Server, seconds: float) -> socket.socket:
    """A connection on which an answer is to come after so many seconds."""
    body = f'{{"instances": [{seconds}]}}'.encode()
    connection = server.connect()
    connection.sendall(b"POST /v1/models/slow:predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    wait_until(lambda: b"in_flight 2" in server.get("/metrics").body, "the request is at work")
    return connection


def test_it_says_what_it_serves(root: Path, half_plus_two: dict[str, Path]) -> None:
    with serving(root, half_plus_two) as server:
        # It answers before it has said so.
        wait_until(lambda: "ready: all models answer" in server.log, "it says that it is ready")
        log = server.log
    assert "version 1 of model half_plus_two is loaded and has answered" in log
    assert "version 1 of model half_plus_two: signature serving_default: x: float [-1,1] -> y: float [-1,1]" in log
    assert f"listening on ports {server.port}, {server.rest_port}" in log


def test_code_beside_the_models_handles_invocations(root: Path, half_plus_two: dict[str, Path], tmp_path: Path) -> None:
    """Its single handler asks the server's own REST API."""
    code = tmp_path / "code"
    code.mkdir()
    shutil.copy(PROGRAMS / "serving" / "handlers" / "single.py", code / "inference.py")
    with serving(root, {**half_plus_two, "code": code}) as server:
        answered = server.invoke("1.0,2.0,5.0", Content_Type="text/csv")
        refused = server.invoke("x", Content_Type="a/b")

    assert (answered.status, answered.json) == (200, {"predictions": [2.5, 3.0, 4.5]})
    assert (refused.status, refused.json) == (500, {"error": "unsupported content type a/b"})
    assert f"handlers of {root}/model/code/inference.py" in server.log


def test_code_that_is_no_handler_ends_the_start(root: Path, half_plus_two: dict[str, Path], tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "inference.py").write_text("def input_handler(data, context): ...\n")
    with serving(root, {**half_plus_two, "code": code}, ready=False) as server:
        assert server.ended() not in (0, TOOLKIT_FAULT)
    assert "inference.py defines input_handler but no output_handler; define both, or handler" in server.log
    assert "Traceback" not in server.log


@pytest.fixture
def stuck(saved_models: Path, tmp_path: Path) -> Path:
    """A model that never ends loading: a file of it is a FIFO into which nobody writes."""
    copy = tmp_path / "stuck"
    shutil.copytree(saved_models / "digits", copy)
    index = copy / "1" / "variables" / "variables.index"
    index.unlink()
    os.mkfifo(index)
    return copy


def test_while_a_model_loads_ping_says_so_and_the_others_answer(
    root: Path, half_plus_two: dict[str, Path], stuck: Path
) -> None:
    with serving(root, {**half_plus_two, "stuck": stuck}, ready=False) as server:
        wait_until(lambda: _is_open(server), "it listens")
        wait_until(lambda: "model half_plus_two is loaded" in server.log, "the other model is loaded")
        ping = server.get("/ping")
        assert (ping.status, ping.error) == (503, "version 1 of model stuck is in state LOADING")
        assert server.get("/v1/models/stuck").json["model_version_status"][0]["state"] == "LOADING"
        assert server.ask("POST", "/v1/models/half_plus_two:predict", '{"instances": [1.0]}').status == 200
        server.signal(signal.SIGTERM)
        assert server.ended() == 0


def test_loading_has_a_time_if_it_is_given_one(root: Path, stuck: Path) -> None:
    with serving(root, {"stuck": stuck}, ready=False, SAGEMAKER_TFS_WAIT_TIME_SECONDS="1") as server:
        assert server.ended() == NO_MODEL
    message = "version 1 of model stuck did not load within 1 s, which SAGEMAKER_TFS_WAIT_TIME_SECONDS sets"
    assert message in server.log


def test_without_a_model_it_shows_what_it_has_looked_at(root: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "model.keras").touch()
    with serving(root, {"wrong": tmp_path / "wrong"}, ready=False) as server:
        assert server.ended() == NO_MODEL
    assert "no SavedModel bundles found!" in server.log
    assert "model.keras is a Keras file: export it by model.export('1')" in server.log


def test_a_model_that_cannot_be_loaded_ends_it_with_the_reason(
    root: Path, half_plus_two: dict[str, Path], tmp_path: Path
) -> None:
    version = tmp_path / "broken" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"this is no protobuf")
    with serving(root, {**half_plus_two, "broken": tmp_path / "broken"}, ready=False) as server:
        assert server.ended() == NO_MODEL
    (line,) = [line for line in server.log.splitlines() if " ERROR " in line]
    assert f"{root}/model/broken/1" in line


def test_a_model_with_cut_off_weights_ends_it_with_the_reason(root: Path, saved_models: Path, tmp_path: Path) -> None:
    copy = tmp_path / "digits"
    shutil.copytree(saved_models / "digits", copy)
    (data,) = (copy / "1" / "variables").glob("variables.data-*")
    data.write_bytes(data.read_bytes()[:10])
    with serving(root, {"digits": copy}, ready=False) as server:
        assert server.ended() == NO_MODEL
    (line,) = [line for line in server.log.splitlines() if " ERROR " in line]
    assert f"{root}/model/digits/1" in line


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SAGEMAKER_TFS_MAX_BATCH_SIZE", "many", "SAGEMAKER_TFS_MAX_BATCH_SIZE is 'many'; expected a whole number"),
        (
            "SAGEMAKER_TFS_DEFAULT_MODEL_NAME",
            "other",
            "SAGEMAKER_TFS_DEFAULT_MODEL_NAME is 'other'; the models are: half_plus_two",
        ),
    ],
)
def test_a_setting_that_cannot_be_obeyed(
    root: Path, half_plus_two: dict[str, Path], name: str, value: str, message: str
) -> None:
    with serving(root, half_plus_two, ready=False, **{name: value}) as server:
        assert server.ended() == WRONG_SETTING
    (line,) = server.log.splitlines()
    assert message in line


def test_a_port_that_is_taken(root: Path, half_plus_two: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(root, half_plus_two, ready=False, SAGEMAKER_BIND_TO_PORT=str(port)) as server:
            assert server.ended() == WRONG_SETTING
        assert f"port {port} cannot be had: Address already in use" in server.log
    with socket.create_server(("", 0)) as taken:
        rest_port = taken.getsockname()[1]
        ports = f"{rest_port - 1}-{rest_port}"
        with serving(root.with_name("other"), half_plus_two, SAGEMAKER_SAFE_PORT_RANGE=ports) as server:
            assert server.invoke("[1.0]").status == 200
        assert f"port {rest_port} cannot be had" in server.log


def test_elastic_inference_is_accepted(root: Path, half_plus_two: dict[str, Path]) -> None:
    with serving(root, half_plus_two, SAGEMAKER_INFERENCE_ACCELERATOR_PRESENT="true") as server:
        assert server.invoke("[1.0]").status == 200
    assert "without effect in this server: SAGEMAKER_INFERENCE_ACCELERATOR_PRESENT" in server.log


def test_a_folder_that_is_no_version_is_told(root: Path, saved_models: Path, tmp_path: Path) -> None:
    copy = tmp_path / "half_plus_two"
    shutil.copytree(saved_models / "half_plus_two", copy)
    (copy / "2").mkdir()
    with serving(root, {"half_plus_two": copy}) as server:
        assert server.get("/v1/models/half_plus_two/versions/2").status == 404
    assert (
        f"{root}/model/half_plus_two/2 is no version of half_plus_two: there is no saved_model.pb in it" in server.log
    )


def test_the_newest_version_answers(root: Path, saved_models: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(saved_models / "half_plus_two" / "1", model / "0009")
    shutil.copytree(saved_models / "half_plus_three" / "1", model / "10")
    with serving(root, {"model": model}) as server:
        assert server.invoke("1.0").json == {"predictions": [3.5]}
        assert server.invoke("1.0", x_amzn_sagemaker_custom_attributes="tfs-model-version=9").json == {
            "predictions": [2.5]
        }
        versions = server.get("/v1/models/model").json["model_version_status"]
        assert [(version["version"], version["state"]) for version in versions] == [
            ("10", "AVAILABLE"),
            ("9", "AVAILABLE"),
        ]


def test_the_first_model_by_name_is_the_default(root: Path, saved_models: Path) -> None:
    models = {"b": saved_models / "half_plus_two", "a": saved_models / "half_plus_three"}
    with serving(root, models) as server:
        assert server.invoke("1.0").json == {"predictions": [3.5]}


def test_term_lets_what_is_in_flight_end(root: Path, slow_model: Path) -> None:
    with serving(root, {"slow": slow_model}) as server:
        with contextlib.closing(ask_slowly(server, 3.0)) as connection:
            server.signal(signal.SIGTERM)
            assert answer(connection).json == {"predictions": [3.0]}
        assert server.ended() == 0
    assert [line["status"] for line in server.access_log if "predict" in line["path"]] == [200]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(root: Path, slow_model: Path, number: int) -> None:
    with serving(root, {"slow": slow_model}, SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS="3600") as server:
        connection = ask_slowly(server, 3000.0)
        server.signal(signal.SIGTERM)
        wait_until(lambda: not _is_open(server), "it no longer listens")
        server.signal(number)
        assert server.ended() == 128 + number
        connection.close()


def test_a_model_that_never_ends_does_not_keep_it_from_ending(root: Path, slow_model: Path) -> None:
    with serving(root, {"slow": slow_model}, SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS="1") as server:
        with contextlib.closing(ask_slowly(server, 3000.0)) as connection:
            assert answer(connection).status == 504
        server.signal(signal.SIGTERM)
        assert server.ended() == 0


def test_idle_connections_do_not_keep_it_from_ending(root: Path, half_plus_two: dict[str, Path]) -> None:
    with serving(root, half_plus_two) as server, contextlib.ExitStack() as stack:
        for sent in (b"", b"GET /ping", b"GET /ping HTTP/1.1\r\n\r\n"):
            connection = stack.enter_context(contextlib.closing(server.connect()))
            connection.sendall(sent)
        assert answer(connection).status == 200
        server.signal(signal.SIGTERM)
        assert server.ended() == 0


def _is_open(server: Server) -> bool:
    try:
        server.connect().close()
    except OSError:
        return False
    return True


def test_threads_follow_the_quota(saved_models: Path) -> None:
    """TensorFlow's: those for branches of a graph have a name, those for single operations that of the process."""
    quota = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "80000", "cpu.max": "80000 100000"}
    program = [sys.executable, str(PROGRAMS / "serving" / "count_threads.py")]
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    with real_cgroup("cpu", quota) as [procs]:

        def count(**variables: str) -> tuple[int, int]:
            command = [*program, str(procs), str(saved_models / "half_plus_two" / "1")]
            output = subprocess.check_output(command, env={**environ, **variables}, timeout=DEADLINE)
            own, branches = map(int, output.split())
            return own, branches

        own, branches = count()
        assert branches == 1
        assert count(SAGEMAKER_TFS_INTRA_OP_PARALLELISM="1") == (own, 1)
        settings = {"SAGEMAKER_TFS_INTRA_OP_PARALLELISM": "4", "SAGEMAKER_TFS_INTER_OP_PARALLELISM": "3"}
        assert count(**settings) == (own + 3, 3)
        assert count(TF_NUM_INTRAOP_THREADS="4", TF_NUM_INTEROP_THREADS="3") == (own + 3, 3)
