"""First requests: the model's own, as TensorFlow Serving has them, and zeros."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tf_toolkit.serving import c_api, saved_model, tensor_proto, warm_up, wire
from tf_toolkit.serving.wire import bytes_field, varint_field


class Messages(logging.Handler):
    """What the log says."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def log() -> Iterator[Messages]:
    logger, handler = logging.getLogger("tf_toolkit"), Messages()
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def records(*logs: bytes) -> bytes:
    return b"".join(struct.pack("<QI", len(each), 0) + each + bytes(4) for each in logs)


def model_spec(signature: str) -> bytes:
    name = bytes_field(1, b"m")
    return bytes_field(1, name + (bytes_field(3, signature.encode()) if signature else b""))


def predict(signature: str, inputs: Mapping[str, bytes], *outputs: str) -> bytes:
    entries = [bytes_field(2, bytes_field(1, name.encode()) + bytes_field(2, value)) for name, value in inputs.items()]
    wanted = [bytes_field(3, name.encode()) for name in outputs]
    return bytes_field(6, bytes_field(1, model_spec(signature) + b"".join(entries + wanted)))


def examples(kind: int, head: bytes, form: int, *parts: tuple[int, bytes]) -> bytes:
    """A log of that kind of request: a list of examples, or one with a context."""
    body = b"".join(bytes_field(number, part) for number, part in parts)
    return bytes_field(kind, bytes_field(1, head + bytes_field(2, bytes_field(form, body))))


def floats(*values: float) -> bytes:
    dim = bytes_field(2, varint_field(1, len(values)))
    return varint_field(1, 1) + bytes_field(2, dim) + bytes_field(5, np.array(values, np.float32).tobytes())


def texts(*values: bytes) -> bytes:
    dim = bytes_field(2, varint_field(1, len(values)))
    return varint_field(1, 7) + bytes_field(2, dim) + b"".join(bytes_field(8, value) for value in values)


def write(folder: Path, data: bytes) -> Path:
    file = folder / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def test_requests_of_all_kinds(tmp_path: Path) -> None:
    task = bytes_field(1, model_spec("one") + bytes_field(2, b"tensorflow/serving/regress"))
    other = bytes_field(1, model_spec("two"))
    file = write(
        tmp_path,
        records(
            predict("", {"x": floats(1, 2)}),
            predict("named", {"x": floats(), "text": texts(b"a", b"")}, "y", "z"),
            examples(2, model_spec("classify"), 1, (1, b"first"), (1, b"second")),
            examples(3, model_spec(""), 2, (1, b"first"), (2, b"context+"), (1, b"second")),
            examples(4, task + other, 1, (1, b"both")),
            # A log of a kind that is not answered, and what logs say of themselves.
            bytes_field(5, bytes_field(1, b"")) + bytes_field(1, b""),
        ),
    )

    found = list(warm_up.requests(file))

    assert [(request.signature, request.outputs) for request in found] == [
        ("serving_default", None),
        ("named", ("y", "z")),
        ("classify", None),
        ("serving_default", None),
        ("one", None),
        ("two", None),
    ]
    assert found[0].inputs["x"].tolist() == [1, 2]
    assert {name: array.tolist() for name, array in found[1].inputs.items()} == {"x": [], "text": [b"a", b""]}
    assert [request.inputs["inputs"].tolist() for request in found[2:]] == [
        [b"first", b"second"],
        [b"context+first", b"context+second"],
        [b"both"],
        [b"both"],
    ]


def test_the_model_gets_its_requests(saved_models: Path, tmp_path: Path, log: Messages) -> None:
    model = c_api.load(saved_models / "remembers" / "1")
    write(
        tmp_path,
        records(predict("", {"text": texts(b"warm")}), predict("nothing", {}), predict("", {"text": floats(1)})),
    )

    warm_up.warm_up(model, tmp_path)

    assert model.run("serving_default", {"text": np.array([b""], object)})["before"].tolist() == [b"warm"]
    assert [message.partition("requests: ")[2] for message in log.messages] == [
        'request 1: signature nothing refuses it: INVALID_ARGUMENT: Serving signature name: "nothing" not found in '
        "signature def",
        "request 2: signature serving_default refuses it: INVALID_ARGUMENT: input 'text' is of the type float32; the "
        "model takes bytes",
    ]


def test_no_more_than_a_thousand(tmp_path: Path, log: Messages) -> None:
    file = write(tmp_path, records(*[predict("", {"x": floats(number)}) for number in range(1001)]))

    assert [request.inputs["x"].tolist() for request in warm_up.requests(file)] == [[number] for number in range(1000)]
    assert log.messages == [f"{file}: only the first 1000 requests are taken"]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"short", "the file ends inside a record's header"),
        (records(b"\x32\x00")[:-1], "a record of 2 bytes begins 5 bytes before the end"),
        (
            struct.pack("<QI", 1 << 63, 0) + bytes(9),
            "a record of 9223372036854775808 bytes begins 9 bytes before the end",
        ),
        (records(b"\xff\xff"), "a number does not end"),
        (records(predict("", {"x": varint_field(1, 20)})), "a tensor is of the type DT_RESOURCE, which no array has"),
        (records(predict("", {"x": varint_field(1, 1) + bytes_field(4, b"abc")})), "a tensor of float32 has 3 bytes"),
        (
            records(predict("", {"x": varint_field(1, 1) + bytes_field(2, bytes_field(2, varint_field(1, 1 << 60)))})),
            "a tensor has the shape (1152921504606846976,)",
        ),
        (
            records(predict("", {"x": varint_field(1, 1) + bytes_field(5, bytes(8))})),
            "a tensor of 1 elements has 2 values",
        ),
    ],
)
def test_a_file_that_is_none_is_told_and_passed_over(
    saved_models: Path, tmp_path: Path, log: Messages, data: bytes, fault: str
) -> None:
    model = c_api.load(saved_models / "remembers" / "1")
    file = write(tmp_path, records(predict("", {"text": texts(b"first")})) + data)

    warm_up.warm_up(model, tmp_path)

    assert log.messages[-1] == f"{file}: these are no warm-up requests, from here on: {fault}"
    assert model.run("serving_default", {"text": np.array([b""], object)})["before"].tolist() == [b"first"]


def test_zeros_of_every_signature(saved_models: Path) -> None:
    signatures = saved_model.read(saved_models / "many" / "1")

    found = {request.signature: request.inputs for request in warm_up.zeros(signatures)}

    assert list(found) == list(signatures)
    assert {name: (array.dtype.name, array.shape) for name, array in found["rows"].items()} == {
        "a": ("float32", (1, 3)),
        "b": ("int64", (1,)),
    }
    assert {name: array.shape for name, array in found["scaled"].items()} == {"a": (2, 1), "factor": ()}
    assert found["shout"]["text"].tolist() == [b""]


@pytest.mark.parametrize("name", ["half_plus_two", "many", "identities", "digits", "vocabulary_1"])
def test_models_take_zeros(saved_models: Path, name: str, log: Messages) -> None:
    directory = saved_models / name / "1"

    warm_up.warm_up(c_api.load(directory), directory)

    assert log.messages == []


def test_arrays_that_tensorflow_wrote(saved_models: Path) -> None:
    files = sorted((saved_models / "tensor_protos").glob("*.pb"))
    assert len(files) == 90

    for file in files:
        expected: Any = np.load(file.with_name(file.stem.rpartition("-")[0] + ".npy"), allow_pickle=True)
        found = tensor_proto.array(memoryview(file.read_bytes()))
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), file.stem
        np.testing.assert_array_equal(found, expected, file.stem)


def test_the_last_value_stands_for_all_that_follow() -> None:
    shape = bytes_field(2, bytes_field(2, varint_field(1, 4)))

    def array(rest: bytes) -> list[Any]:
        found: list[Any] = tensor_proto.array(memoryview(shape + rest)).tolist()
        return found

    assert array(varint_field(1, 3) + varint_field(7, 1) + varint_field(7, -5)) == [1, -5, -5, -5]
    assert array(varint_field(1, 3)) == [0, 0, 0, 0]
    assert array(varint_field(1, 7) + bytes_field(8, b"a")) == [b"a"] * 4
    assert array(varint_field(1, 7)) == [b""] * 4
    with pytest.raises(wire.WireError):
        array(varint_field(1, 3) + bytes_field(7, bytes(5)))
