"""What saved_model.pb says, held against what TensorFlow wrote; and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tf_toolkit.serving import saved_model, wire
from tf_toolkit.serving.errors import ModelError
from tf_toolkit.serving.signature import CLASSIFY, PREDICT, REGRESS, DataType, TensorInfo


def test_a_tf1_model(saved_models: Path) -> None:
    signatures = saved_model.read(saved_models / "half_plus_two" / "1")

    assert list(signatures) == [
        "classify_labels",
        "classify_x_to_y",
        "regress_x2_to_y3",
        "regress_x_to_y2",
        "serving_default",
        "tensorflow/serving/regress",
    ]
    default = signatures["serving_default"]
    assert default.inputs == {"x": TensorInfo("x:0", DataType.DT_FLOAT, (-1, 1))}
    assert default.outputs == {"y": TensorInfo("y:0", DataType.DT_FLOAT, (-1, 1))}
    assert default.method_name == PREDICT
    regress = signatures["tensorflow/serving/regress"]
    assert regress.inputs == {"inputs": TensorInfo("tf_example:0", DataType.DT_STRING, None)}
    assert regress.method_name == REGRESS
    classify = signatures["classify_labels"]
    assert {name: info.dtype for name, info in classify.outputs.items()} == {
        "classes": DataType.DT_STRING,
        "scores": DataType.DT_FLOAT,
    }
    assert classify.method_name == CLASSIFY


def test_a_tf2_model(saved_models: Path) -> None:
    signatures = saved_model.read(saved_models / "many" / "1")

    # Without what TensorFlow runs itself.
    assert list(signatures) == ["centred", "mean", "positive", "rows", "scaled", "shout"]
    assert [(name, info.dtype, info.shape) for name, info in signatures["rows"].inputs.items()] == [
        ("a", DataType.DT_FLOAT, (-1, 3)),
        ("b", DataType.DT_INT64, (-1,)),
    ]
    assert [(name, info.shape) for name, info in signatures["scaled"].inputs.items()] == [
        ("a", (2, -1)),
        ("factor", ()),
    ]
    assert signatures["mean"].outputs["mean"].shape == ()


def test_types(saved_models: Path) -> None:
    signatures = saved_model.read(saved_models / "identities" / "1")

    assert {name: signature.inputs["x"].dtype.name for name, signature in signatures.items()} == {
        "bool": "DT_BOOL",
        "complex128": "DT_COMPLEX128",
        "complex64": "DT_COMPLEX64",
        "float16": "DT_HALF",
        "float32": "DT_FLOAT",
        "float64": "DT_DOUBLE",
        "int16": "DT_INT16",
        "int32": "DT_INT32",
        "int64": "DT_INT64",
        "int8": "DT_INT8",
        "string": "DT_STRING",
        "uint16": "DT_UINT16",
        "uint32": "DT_UINT32",
        "uint64": "DT_UINT64",
        "uint8": "DT_UINT8",
    }
    assert {signature.inputs["x"].shape for signature in signatures.values()} == {None}


def write(folder: Path, data: bytes) -> Path:
    (folder / "saved_model.pb").write_bytes(data)
    return folder


def graph(*tags: str, rest: bytes = b"") -> bytes:
    info = b"".join(wire.bytes_field(4, tag.encode()) for tag in tags)
    return wire.bytes_field(2, wire.bytes_field(1, info) + rest)


def test_the_graph_for_serving_among_others(saved_models: Path, tmp_path: Path) -> None:
    whole = (saved_models / "half_plus_two" / "1" / "saved_model.pb").read_bytes()

    assert saved_model.read(write(tmp_path, graph("train") + graph("serve", "tpu") + whole)) == saved_model.read(
        saved_models / "half_plus_two" / "1"
    )
    with pytest.raises(ModelError) as raised:
        saved_model.read(write(tmp_path, graph("train") + graph("serve", "tpu")))
    assert str(raised.value) == (
        f"{tmp_path}/saved_model.pb: it has no graph with the tag 'serve' alone; tags found: train, serve+tpu"
    )


def info(shape: bytes, dtype: int = 1) -> bytes:
    """A graph with one signature of one input."""
    tensor = wire.bytes_field(1, b"x:0") + wire.varint_field(2, dtype) + wire.bytes_field(3, shape)
    signature = wire.bytes_field(1, wire.bytes_field(1, b"x") + wire.bytes_field(2, tensor))
    return graph("serve", rest=wire.bytes_field(5, wire.bytes_field(1, b"s") + wire.bytes_field(2, signature)))


def test_a_type_that_is_not_known_yet(tmp_path: Path) -> None:
    signatures = saved_model.read(write(tmp_path, info(b"", dtype=99)))

    assert signatures["s"].inputs["x"] == TensorInfo("x:0", DataType.DT_INVALID, ())


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "the file is empty"),
        (b"\xff" * 20, "a number does not end"),
        (b"\x08", "a number does not end"),
        (b"\x0b", "begins a field of the unknown kind 3"),
        (b"\x02\x00", "a field has the number 0"),
        (b"\x12\xff\xff\xff\xff\x0fabc", "a field of 4294967295 bytes begins 3 bytes before the end"),
        (b"\x10\x05", "there is a number where bytes belong"),
        (wire.bytes_field(2, wire.bytes_field(1, wire.bytes_field(4, b"\xff"))), "a name is not UTF-8"),
        (info(wire.bytes_field(2, wire.varint_field(1, -2))), "a shape has a size of -2"),
        (b"\x89PNG\r\n\x1a\n", "cut off"),
    ],
)
def test_files_that_are_no_saved_model(tmp_path: Path, data: bytes, fault: str) -> None:
    with pytest.raises(ModelError) as raised:
        saved_model.read(write(tmp_path, data))

    assert str(raised.value).startswith(f"{tmp_path}/saved_model.pb: ")
    assert fault in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").mkdir()

    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        saved_model.read(tmp_path)


def test_cut_off_anywhere(saved_models: Path, tmp_path: Path) -> None:
    whole = (saved_models / "many" / "1" / "saved_model.pb").read_bytes()

    for end in range(1, len(whole), 97):
        with pytest.raises(ModelError):
            saved_model.read(write(tmp_path, whole[:end]))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), change=st.binary(min_size=1, max_size=12))
def test_damaged_anywhere(saved_models: Path, tmp_path: Path, at: int, change: bytes) -> None:
    data = bytearray((saved_models / "half_plus_two" / "1" / "saved_model.pb").read_bytes())
    # What is read stands at the file's end.
    place = max(0, len(data) - at)
    data[place : place + len(change)] = change

    try:
        saved_model.read(write(tmp_path, bytes(data)))
    except ModelError as error:
        assert str(tmp_path) in str(error)
