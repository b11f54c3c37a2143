"""gRPC for handlers: TensorFlow Serving's PredictionService on the context's port, asked by its own messages."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import textwrap
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import PROGRAMS, wait_until
from hosts import free_ports
from serve_process import JSON, Server, serving
from signatures import STRING, default, tensor
from tf_toolkit.serving import api_messages, tensor_proto, wire
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.errors import ModelRunError, RequestError
from tf_toolkit.serving.grpc_service import PredictionService, code
from tf_toolkit.serving.models import FoundModel
from tf_toolkit.serving.registry import Registry
from tf_toolkit.serving.wire import bytes_field, varint_field

HANDLER = PROGRAMS / "serving" / "grpc"
MODELS = ("half_plus_two", "identities", "many")
# What a handler has of TensorFlow and of tensorflow-serving-api, and functions that make requests shorter.
STUB = """
import grpc, numpy as np, tensorflow as tf
import prediction_service as api
from tensorflow.core.example.example_pb2 import Example

stub = api.PredictionServiceStub(context.channel)

def spec(name, signature="", **version):
    return api.ModelSpec(name=name, signature_name=signature, **version)

def request(model_spec, outputs=(), **arrays):
    made = api.PredictRequest(model_spec=model_spec, output_filter=outputs)
    for name, array in arrays.items():
        made.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    return made

def floats(*values):
    return np.array(values, np.float32)

def example(**values):
    made = Example()
    for name, value in values.items():
        made.features.feature[name].float_list.value.append(value)
    return made

def listed(*examples):
    return api.Input(example_list=api.ExampleList(examples=examples))

def fault(call, *arguments):
    try:
        return str(call(*arguments))
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
"""


PREDICT = "/tensorflow.serving.PredictionService/Predict"


def told(server: Server, program: str, path: str = "/invocations") -> Any:
    """What the handler answers, which does as it is told."""
    answer = server.ask("POST", path, textwrap.dedent(program).encode(), JSON)
    assert answer.status == 200, answer.body.decode()
    return answer.json


def asked(name: str, input_name: str, *values: float) -> bytes:
    """A PredictRequest of doubles, which are floats where the input's name is x."""
    array = np.array(values, np.float32 if input_name == "x" else np.float64)
    entry = bytes_field(1, input_name.encode()) + bytes_field(2, tensor_proto.encoded(array))
    return bytes_field(1, bytes_field(1, name.encode())) + bytes_field(2, entry)


def output(answer: str, name: str) -> list[float]:
    """Of a PredictResponse in hexadecimal."""
    entries = [wire.entry(value) for number, value in wire.fields(memoryview(bytes.fromhex(answer))) if number == 1]
    values: list[float] = tensor_proto.array(dict(entries)[name]).tolist()
    return values


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def server(saved_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Its handlers have TensorFlow, and what tensorflow-serving-api has."""
    root = tmp_path_factory.mktemp("server")
    shutil.copytree(HANDLER, root / "code")
    models = {name: saved_models / name for name in MODELS}
    with serving(
        root / "ml",
        {**models, "code": root / "code"},
        CUDA_VISIBLE_DEVICES="-1",
        SAGEMAKER_TFS_DEFAULT_MODEL_NAME="half_plus_two",
        SAGEMAKER_MAX_REQUEST_SIZE="20000000",
        # What is not for outside does not go through a proxy.
        http_proxy="http://127.0.0.1:1",
    ) as started:
        yield started
        assert started.process.poll() is None


# What clients of TensorFlow Serving do


def test_predict(server: Server) -> None:
    assert told(
        server,
        STUB
        + """
rows = [[1.0], [2.0]]
first = stub.Predict(request(spec("half_plus_two"), x=floats(*rows)), 60.0)
later = stub.Predict.future(request(spec("half_plus_two", version={"value": 1}), x=floats([5.0])))
direct = [("grpc.enable_http_proxy", 0)]
with context.channel as channel:
    still = api.PredictionServiceStub(channel)
    grpc.channel_ready_future(channel).result()
channel.close()
own = api.PredictionServiceStub(grpc.insecure_channel("localhost:" + context.grpc_uri, options=direct))
answer = {
    "values": list(first.outputs["y"].float_val),
    "array": tf.make_ndarray(first.outputs["y"]).tolist(),
    "spec": [first.model_spec.name, first.model_spec.version.value, first.model_spec.signature_name],
    "later": list(later.result().outputs["y"].float_val),
    "open still": list(still.Predict(request(spec("half_plus_two"), x=floats([4.0]))).outputs["y"].float_val),
    "own channel": list(own.Predict(request(spec("half_plus_two"), x=floats([3.0]))).outputs["y"].float_val),
}
""",
    ) == {
        "values": [2.5, 3.0],
        "array": [[2.5], [3.0]],
        "spec": ["half_plus_two", 1, "serving_default"],
        "later": [4.5],
        "open still": [4.0],
        "own channel": [3.5],
    }


def test_every_type_both_ways(server: Server) -> None:
    """As one value, several, none, and with their first and last; read by TensorFlow itself."""
    answer = told(
        server,
        STUB
        + """
wrong = []
names = "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex64 complex128".split()
for name in names:
    kind = np.dtype(name).kind
    values = [np.array([[0, 127], [128, 16384]]).astype(name), np.array(1, name), np.zeros((2, 0), name)]
    if kind in "iu":
        values.append(np.array([np.iinfo(name).min, np.iinfo(name).max], name))
    if kind == "c":
        values.append(np.array([1 - 2j], name))
    if kind == "f":
        values.append(np.array([np.inf, -0.0, 1 / 3], name))
    for array in values:
        made = request(spec("identities", name), x=array)
        back = tf.make_ndarray(stub.Predict(made).outputs["y"])
        if back.dtype != array.dtype or back.shape != array.shape or back.tobytes() != array.tobytes():
            wrong.append([name, array.tolist(), back.tolist()])
lists = request(spec("identities", "int64"))
lists.inputs["x"].dtype = 9
lists.inputs["x"].tensor_shape.dim.add(size=4)
lists.inputs["x"].int64_val.extend([-1, 300, 7])
texts = [[b"\\xff", b""], [b"x" * 300, "\\u00e9".encode()]]
back = tf.make_ndarray(stub.Predict(request(spec("identities", "string"), x=texts)).outputs["y"])
answer = [wrong, list(stub.Predict(lists).outputs["y"].int64_val), back.tolist() == texts]
""",
    )
    assert answer == [[], [-1, 300, 7, 7], True]


def test_only_some_outputs_and_large_ones(server: Server) -> None:
    """Of more bytes than a channel of gRPC takes unasked."""
    answer = told(
        server,
        STUB
        + """
some = stub.Predict(request(spec("many", "rows"), ["twice", "sum"], a=floats([1, 2, 3]), b=np.array([4])))
large = np.arange(2_000_000, dtype=np.float32)
back = stub.Predict(request(spec("identities", "float32"), x=large)).outputs["y"]
answer = [sorted(some.outputs), bool((tf.make_ndarray(back) == large).all())]
""",
    )
    assert answer == [["sum", "twice"], True]


def test_classify_and_regress(server: Server) -> None:
    answer = told(
        server,
        STUB
        + """
two = listed(example(x=1.0), example(x=2.0))
shared = api.Input(example_list_with_context=dict(examples=[example(), example(x=2.0)], context=example(x=4.0)))
def classified(signature):
    made = api.ClassificationRequest(model_spec=spec("half_plus_two", signature), input=two)
    answered = stub.Classify(made)
    assert answered.model_spec.version.value == 1
    return [[[each.label, each.score] for each in one.classes] for one in answered.result.classifications]
regress = api.RegressionRequest(model_spec=spec("half_plus_two", "tensorflow/serving/regress"), input=shared)
answer = [
    classified("classify_labels"),
    classified("classify_x_to_y"),
    [each.value for each in stub.Regress(regress).result.regressions],
]
""",
    )
    assert answer == [
        [[["zero", 2.5], ["one", 3.5]], [["zero", 3.0], ["one", 4.0]]],
        [[["", 2.5]], [["", 3.0]]],
        [4.0, 3.0],
    ]


def test_metadata(server: Server) -> None:
    answer = told(
        server,
        STUB
        + """
found = stub.GetModelMetadata(api.GetModelMetadataRequest(model_spec=spec("many"), metadata_field=["signature_def"]))
signatures = api.SignatureDefMap()
assert found.metadata["signature_def"].Unpack(signatures)
rows = signatures.signature_def["rows"]
sizes = {name: [dim.size for dim in info.tensor_shape.dim] for name, info in rows.inputs.items()}
types = {name: tf.as_dtype(info.dtype).name for name, info in rows.outputs.items()}
answer = [found.model_spec.version.value, sorted(signatures.signature_def), sizes, types, rows.method_name]
""",
    )
    assert answer == [
        1,
        ["centred", "mean", "positive", "rows", "scaled", "shout"],
        {"a": [-1, 3], "b": [-1]},
        {"both": "float32", "sum": "float32", "twice": "int64"},
        "tensorflow/serving/predict",
    ]


FAULTS = [
    ('Predict, request(spec("nobody"))', "NOT_FOUND", "Servable not found for request: Latest(nobody)"),
    (
        'Predict, request(spec("half_plus_two", version={"value": 7}))',
        "NOT_FOUND",
        "Servable not found for request: Specific(half_plus_two, 7)",
    ),
    (
        'Predict, request(spec("half_plus_two", version_label="canary"))',
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: canary",
    ),
    (
        'Predict, request(spec("half_plus_two", "none"), x=floats([1]))',
        "INVALID_ARGUMENT",
        'Serving signature name: "none" not found in signature def',
    ),
    (
        'Predict, request(spec("half_plus_two"), z=floats([1]))',
        "INVALID_ARGUMENT",
        "signature 'serving_default' takes x; given: z",
    ),
    (
        'Predict, request(spec("half_plus_two"), x=np.array([[1.0]]))',
        "INVALID_ARGUMENT",
        "input 'x' is of the type float64; the model takes float32",
    ),
    (
        'Predict, request(spec("half_plus_two"), ["none"], x=floats([1]))',
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: none",
    ),
    (
        'Predict, request(spec("many", "positive"), a=floats(-1))',
        "INVALID_ARGUMENT",
        "assertion failed: [a must not be negative]",
    ),
    (
        'Predict, request(spec("identities", "float32"), x=np.zeros(6_000_000, np.float32))',
        "RESOURCE_EXHAUSTED",
        "",
    ),
    (
        'Predict, request(spec("half_plus_two", "n" * 100_000))',
        "INVALID_ARGUMENT",
        'Serving signature name: "nnn',
    ),
    (
        'Classify, api.ClassificationRequest(model_spec=spec("half_plus_two", "classify_labels"))',
        "INVALID_ARGUMENT",
        "Input is empty",
    ),
    (
        'Classify, api.ClassificationRequest(model_spec=spec("half_plus_two"), input=listed(example(x=1.0)))',
        "INVALID_ARGUMENT",
        "signature 'serving_default' takes x: float [-1,1], and no tf.Example: call Predict for it",
    ),
    (
        'GetModelMetadata, api.GetModelMetadataRequest(model_spec=spec("many"))',
        "INVALID_ARGUMENT",
        "metadata_field is missing; there is signature_def",
    ),
    ("MultiInference, api.MultiInferenceRequest()", "UNIMPLEMENTED", "this server has no MultiInference; call"),
]


def test_what_cannot_be_answered(server: Server) -> None:
    calls = "".join(f"    fault(stub.{call}),\n" for call, _, _ in FAULTS)
    answers = told(server, f"{STUB}\nanswer = [\n{calls}]\n")
    for (call, status, message), answer in zip(FAULTS, answers):
        assert (answer[0], answer[1][: len(message)]) == (status, message), (call, answer)


def test_of_bytes_that_are_no_message_the_server_takes_no_harm(server: Server) -> None:
    answer = told(
        server,
        STUB
        + f"""
raw = context.channel.unary_unary("{PREDICT}")
answer = [fault(raw, b"\\xff\\xff"), fault(context.channel.unary_unary("/tensorflow.serving.Other/Predict"), b"")]
""",
    )
    assert answer == [
        ["INVALID_ARGUMENT", "this is no message of tensorflow.serving.PredictionService: a number does not end"],
        ["UNIMPLEMENTED", "Method not found!"],
    ]


# The port and the channel


@pytest.fixture
def plain(saved_models: Path, slow_model: Path, tmp_path: Path) -> Iterator[tuple[Server, int]]:
    """A server whose handlers do without TensorFlow, and the port that is its own for gRPC."""
    port = free_ports(4)
    shutil.copytree(HANDLER, tmp_path / "code")
    models = {"half_plus_two": saved_models / "half_plus_two", "slow": slow_model, "code": tmp_path / "code"}
    with serving(
        tmp_path / "ml",
        models,
        SAGEMAKER_SAFE_PORT_RANGE=f"{port}-{port + 3}",
        SAGEMAKER_TFS_DEFAULT_MODEL_NAME="half_plus_two",
        SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS="5",
    ) as started:
        yield started, port


def test_nothing_is_opened_before_it_is_asked_for(plain: tuple[Server, int]) -> None:
    server, port = plain
    quiet = """
        import sys
        changed = context._replace(accept_header="text/csv")
        assert changed.accept_header == "text/csv" and "<opened when asked for>" in repr(changed)
        assert context == context._replace() and hash(context) == hash(context._replace())
        answer = ["grpc" in sys.modules, context.model_name, context.timeout, len(context)]
    """
    assert told(server, quiet) == [False, "half_plus_two", 5, 11]
    assert not listens(port)
    missing = """
        import sys
        sys.modules["grpc"] = None
        try:
            context.channel
        except ImportError as error:
            answer = str(error)
        del sys.modules["grpc"]
    """
    assert told(server, missing) == (
        "context.channel and context.grpc_port need the package grpcio, which cannot be imported: import of grpc "
        "halted; None in sys.modules; name it in code/requirements.txt, or put it into code/lib"
    )
    at_once = """
        import threading
        found = []
        threads = [
            threading.Thread(target=lambda: found.append((id(context.channel), context.grpc_port))) for _ in range(8)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len(found) == 8
        answer = [len(set(found)), found[0][1]]
    """
    assert told(server, at_once) == [1, str(port)]
    assert listens(port)
    assert f"listening for gRPC on port {port} of 127.0.0.1" in server.log
    fields = """
        model, version, method, uri, port, channel, *rest = context
        assert channel is context.channel is context[5] is context._asdict()["channel"] is context._replace().channel
        assert context._replace(channel=None, grpc_port="7").channel is None
        answer = [context[:2] == (model, version), [port, context.grpc_uri, context[4], context[-7]], len(rest)]
    """
    assert told(server, fields) == [True, [str(port)] * 4, 5]


def test_a_port_that_is_taken_is_passed_over(plain: tuple[Server, int]) -> None:
    server, port = plain
    with socket.create_server(("127.0.0.1", port)):
        found = int(told(server, "answer = context.grpc_port"))
        assert found != port
        assert listens(found)
    request = asked("half_plus_two", "x", 3.0).hex()
    call = f'answer = context.channel.unary_unary("{PREDICT}")(bytes.fromhex("{request}")).hex()'
    assert output(told(server, call), "y") == [3.5]
    # gRPC itself has said nothing of it.
    assert "add_port" not in server.log


def test_time_out_and_end(plain: tuple[Server, int]) -> None:
    """What is late is told; what is in flight when the server ends has its answer."""
    server, _ = plain
    late = f"""
        import grpc, threading, builtins
        def ask():
            try:
                context.channel.unary_unary("{PREDICT}")(bytes.fromhex("{asked("slow", "seconds", 7.0).hex()}"))
            except grpc.RpcError as error:
                builtins.late = [error.code().name, error.details()]
        threading.Thread(target=ask, daemon=True).start()
        answer = None
    """
    assert told(server, late) is None
    seen = "import builtins\nanswer = getattr(builtins, 'late', None)"
    assert wait_until(lambda: told(server, seen), "the request is given up") == [
        "DEADLINE_EXCEEDED",
        "no answer within 5 s, which SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS sets",
    ]
    request = asked("slow", "seconds", 1.0).hex()
    begun = server.root / "begun"
    slow = f"""
        import pathlib
        call = context.channel.unary_unary("{PREDICT}").future(bytes.fromhex("{request}"))
        pathlib.Path("{begun}").touch()
        answer = call.result().hex()
    """
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(told(server, slow)))
    asking.start()
    wait_until(begun.exists, "the handler asks")
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    asking.join()
    assert output(answers[0], "waited") == [1.0]


def test_models_that_come_and_go(saved_models: Path, tmp_path: Path) -> None:
    root = tmp_path / "ml"
    shutil.copytree(HANDLER, root / "code")
    call = f"""
        import grpc
        try:
            call = context.channel.unary_unary("{PREDICT}")
            answer = call(bytes.fromhex("{asked("half_plus_two", "x", 2.0).hex()}")).hex()
        except grpc.RpcError as error:
            answer = [error.code().name, error.details()]
    """
    with serving(root, {}, SAGEMAKER_MULTI_MODEL="true") as server:
        for name in ("half_plus_two", "other"):
            (root / "models" / name / "model").mkdir(parents=True)
            (root / "models" / name / "model" / "m").symlink_to(saved_models / "half_plus_two")
            body = json.dumps({"model_name": name, "url": f"{root}/models/{name}/model"})
            assert server.ask("POST", "/models", body, JSON).status == 200
        assert output(told(server, call, "/models/other/invoke"), "y") == [3.0]
        assert server.ask("DELETE", "/models/half_plus_two").status == 200
        assert told(server, call, "/models/other/invoke") == [
            "NOT_FOUND",
            "Servable not found for request: Latest(half_plus_two)",
        ]


# Bytes from anywhere


def pieces() -> st.SearchStrategy[bytes]:
    """Messages within messages, most of them in fields that mean something."""
    # Small ones, or the sizes of arrays fill the memory.
    numbers = st.one_of(st.integers(0, 6), st.sampled_from([7, 9, 19, 23, -1, 1 << 31, 1 << 62, 1 << 63]))
    leaf = st.one_of(
        st.binary(max_size=20),
        st.builds(varint_field, st.integers(1, 20), numbers),
        st.builds(bytes_field, st.integers(1, 20), st.binary(max_size=20)),
    )
    return st.recursive(
        leaf, lambda inner: st.builds(bytes_field, st.integers(1, 8), st.lists(inner, max_size=4).map(b"".join))
    )


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.lists(pieces(), max_size=6).map(b"".join)), st.data())
def test_any_bytes_are_a_request_or_an_invalid_argument(message: bytes, data: st.DataObject) -> None:
    registry = Registry()
    (servable,) = registry.add(FoundModel("m", Path("m"), {1: Path("m/1")}, ()))
    engine: Any = SimpleNamespace(signatures=default({"x": tensor(STRING)}))
    servable.load(lambda directory: (engine, engine))
    methods = PredictionService(registry).methods()
    method = methods[data.draw(st.sampled_from(sorted(methods)))]

    def run(work: Coroutine[Any, Any, dict[str, Array]]) -> dict[str, Array]:
        work.close()
        raise ModelRunError("ABORTED", "it was read")

    try:
        # Which may name another one.
        method(bytes_field(1, bytes_field(1, b"m")) + message, run)
    except RequestError as error:
        assert code(error) in ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "ABORTED")


@settings(max_examples=200, deadline=None)
@given(st.lists(pieces(), max_size=6).map(b"".join))
def test_any_bytes_are_inputs_or_none(message: bytes) -> None:
    for read in (
        lambda: api_messages.predict_request(memoryview(message)),
        lambda: api_messages.request_examples(memoryview(message)),
        lambda: tensor_proto.array(memoryview(message)),
    ):
        with contextlib.suppress(wire.WireError):
            read()


@pytest.mark.parametrize("size", [0, 1, 100_000, 100_001])
def test_many_integers_come_back_as_they_went(size: int) -> None:
    array = np.arange(-2, size - 2, dtype=np.int64) * 3_000_000_019
    assert np.array_equal(tensor_proto.array(memoryview(tensor_proto.encoded(array))), array)


def test_a_tensor_of_more_dimensions_than_arrays_have_is_refused() -> None:
    dims = b"".join([bytes_field(2, varint_field(1, 1))] * 100)
    with pytest.raises(wire.WireError, match="a tensor has 100 dimensions"):
        tensor_proto.array(memoryview(varint_field(1, 1) + bytes_field(2, dims)))
