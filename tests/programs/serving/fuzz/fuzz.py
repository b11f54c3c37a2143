"""Feeds what reads strangers' bytes with what atheris makes up: fuzz.py TARGET -runs=N -seed=N [CORPUS...]

Each makes a value of it, or refuses it with the one error that becomes an answer. What it makes is what Python's own
json and csv, and numpy, make of it, where these take it too.
"""

import csv
import io
import json
import math
import re
import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["tf_toolkit.serving"]):
    from tf_toolkit.serving import (
        classify_json,
        content,
        custom_attributes,
        json_text,
        media_types,
        rest_json,
        saved_model,
        warm_up,
        wire,
    )
    from tf_toolkit.serving.errors import ModelError, RequestError
    from tf_toolkit.serving.request import error_body
    from tf_toolkit.serving.signature import CLASSIFY, NUMPY_TYPES, PREDICT, REGRESS, DataType, Signature, TensorInfo

from made_up import Maker

REFUSED = object()
JSON, CSV, NPY = "application/json", "text/csv", "application/x-npy"
WORDS = (b"NaN", b"Inf")
# Alone it stands for nothing; where a key comes twice, only the text shows it.
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def model(method=PREDICT, **inputs):
    infos = {name: TensorInfo(f"{name}:0", dtype, shape) for name, (dtype, shape) in inputs.items()}
    outputs = {name: TensorInfo(f"{name}:0", DataType.DT_FLOAT, (-1,)) for name in ("y", "outputs", "scores")}
    return {"serving_default": Signature(infos, outputs, method)}


MODELS = [
    *(model(x=(dtype, shape)) for dtype in NUMPY_TYPES for shape in ((-1,), (-1, 2), None)),
    model(a=(DataType.DT_FLOAT, (-1,)), b=(DataType.DT_STRING, (-1, 2))),
    model(inputs=(DataType.DT_FLOAT, (-1, 2))),
    model(instances=(DataType.DT_INT64, (-1,))),
    model(examples=(DataType.DT_STRING, (-1,)), b64=(DataType.DT_BOOL, ())),
    model(x=(DataType.DT_BFLOAT16, (-1,))),
    model(CLASSIFY, inputs=(DataType.DT_STRING, None)),
    model(REGRESS, inputs=(DataType.DT_STRING, (-1,))),
    model(),
    {},
]


def refused(call, *statuses):
    """What the call returns, or REFUSED where it raises the one error of these statuses."""
    try:
        return call()
    except RequestError as error:
        assert error.status in statuses, error.status
        assert error.message
        assert json.loads(error_body(error.message)) == {"error": error.message}
        return REFUSED


def names(signatures):
    return [name for signature in signatures.values() for name in signature.inputs]


def chosen_model(make):
    """One of the models, for which most of what is made up is right."""
    signatures = make.one_of(MODELS)
    kinds = {
        np.dtype(NUMPY_TYPES.get(info.dtype, "f4")).kind
        for each in signatures.values()
        for info in each.inputs.values()
    }
    make.kind = (kinds & set("fibO") or {"i"}).pop()
    return signatures


# JSON


def json_document(make):
    make.kind = make.one_of("fibO")
    body = make.broken(make.document(["x", "inputs"]).encode(errors="surrogatepass"))
    ours = refused(lambda: json_text.parse(body), 400)
    theirs, strict = python_json(body)
    has_words = any(word in body for word in WORDS)
    if ours is not REFUSED and theirs is not REFUSED:
        assert_same(ours, theirs)
    elif ours is REFUSED:
        assert not strict, ("refused, but right", body)
    else:
        assert has_words or body.startswith(b"\xef\xbb\xbf"), ("taken, but wrong", body)


def python_json(body):
    """The value, or REFUSED; and whether every reader of JSON takes it."""
    constants, numbers = [], []

    def number(text):
        numbers.append(float(text))
        return numbers[-1]

    def integer(text):
        number(text)
        return int(text)

    def constant(word):
        constants.append(word)
        return float(word.replace("Infinity", "inf"))

    try:
        value = json.loads(body.decode(), parse_constant=constant, parse_float=number, parse_int=integer)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return REFUSED, False
    has_surrogates = SURROGATE.search(body) is not None
    return value, not constants and not has_surrogates and all(map(math.isfinite, numbers))


def assert_same(ours, theirs):
    """Whole numbers beyond 64 bits are floats."""
    if isinstance(theirs, int) and not isinstance(theirs, bool) and not -(1 << 63) <= theirs < 1 << 64:
        theirs = float(theirs)
    assert type(ours) is type(theirs), (ours, theirs)
    if isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            assert_same(one, other)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert_same(ours[name], theirs[name])
    else:
        assert equal(ours, theirs), (ours, theirs)


def equal(one, other):
    """What is no number is equal to itself here."""
    return one == other or (one != one and other != other)


# Requests


def predict(make):
    signatures = chosen_model(make)
    body = make.broken(make.request(names(signatures)).encode(errors="surrogatepass"))
    found = refused(lambda: rest_json.parse_predict(body, signatures), 400, 501)
    if found is not REFUSED:
        check_request(found)
        check_values(found, json_text.parse(body))


def invocation(make):
    signatures = chosen_model(make)
    kind = make.one_of([JSON, "application/jsonlines", CSV, NPY])
    if kind == NPY:
        body = make.npy()
    else:
        body = (make.csv() if kind == CSV else make.document(names(signatures))).encode(errors="surrogatepass")
    body = make.broken(body)
    charset = make.one_of(
        ["", "", "", "; charset=utf-8", "; charset=utf-16", "; charset=idna", ";charset=é", "; charset=hex"]
    )
    found = refused(lambda: content.parse_invocation(body, kind + charset, signatures), 400, 415, 501)
    if found is REFUSED:
        return
    check_request(found)
    assert kind in (JSON, "application/jsonlines") or found.row_format
    if kind == CSV and charset in ("", "; charset=utf-8"):
        check_csv(found, body)
    if kind == NPY:
        check_npy(found, body)


def check_request(found):
    assert found.inputs.keys() == found.signature.inputs.keys()
    for name, array in found.inputs.items():
        dtype = found.signature.inputs[name].dtype
        assert array.dtype == np.dtype(NUMPY_TYPES[dtype]), array.dtype
        if dtype is DataType.DT_STRING:
            assert all(type(value) is bytes for value in array.ravel().tolist())
    if found.row_format and len(found.inputs) > 1:
        assert len({len(array) for array in found.inputs.values()}) == 1


def check_values(found, document):
    """Plain numbers are those of the document, as near as the type has them."""
    if len(found.inputs) != 1:
        return
    (array,) = found.inputs.values()
    value = document["instances" if found.row_format else "inputs"]
    if array.dtype.kind not in "fiu" or "{" in str(value):
        return
    with np.errstate(over="ignore"):
        expected = np.array(value, "float64" if array.dtype.kind == "f" else array.dtype).astype(array.dtype)
    assert expected.shape == array.shape or not array.size
    assert np.array_equal(expected.ravel(), array.ravel(), equal_nan=array.dtype.kind == "f"), (value, array)


def check_csv(found, body):
    (array,) = found.inputs.values()
    lines = body.decode().removeprefix("\ufeff").split("\n")
    reader = csv.reader((line + "\n" for line in lines), strict=True)
    try:
        # Lines of blanks are no records, but what stands in quotes is one.
        rows = [row for row in reader if len(row) > 1 or "".join(row).strip(" \t") or '"' in lines[reader.line_num - 1]]
    except csv.Error:
        assert b"\r" in body, ("taken, but no CSV", body)
        return
    if b"\r" in body:
        # The module takes it for the end of a line.
        return
    values = array.reshape(len(array), -1)
    assert values.shape == (len(rows), len(rows[0])), (values, body)
    for row, expected in zip(values.tolist(), rows):
        wanted = [read_as(array.dtype, field) for field in expected]
        assert all(map(equal, row, wanted)), (row, wanted, body)


def read_as(dtype, field):
    if dtype.kind == "O":
        return field.encode()
    if dtype.kind == "b":
        return field.strip().lower() == "true"
    with np.errstate(over="ignore"):
        return np.array(float(field) if dtype.kind == "f" else int(field), dtype).tolist()


def check_npy(found, body):
    (array,) = found.inputs.values()
    try:
        expected = np.load(io.BytesIO(body), allow_pickle=False)
    except ValueError as error:
        # It looks closer at what makes no difference.
        assert re.search("correct keys|format version|Cannot parse header", str(error)), (
            "taken, but no array",
            error,
            body,
        )
        return
    assert expected.shape == array.shape
    if array.dtype.kind == "O":
        written = [value if type(value) is bytes else value.encode() for value in expected.ravel().tolist()]
        assert array.ravel().tolist() == written
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            expected = expected.astype(array.dtype)
        assert np.array_equal(expected, array, equal_nan=array.dtype.kind in "fc")


def examples(make):
    signatures = chosen_model(make)
    method = make.one_of(["classify", "regress"])
    has_messages = any(map(classify_json.takes_messages, signatures.values()))
    listed = make.many(lambda: make.named(["x", "y"] if has_messages else names(signatures), 1), 3)
    members = [("examples", make.listed(listed))]
    if make.rarely() or has_messages:
        members.append(("context", make.named(["x", "z"], 1)))
    text = make.request(names(signatures)) if make.rarely() else make.object(members)
    body = make.broken(text.encode(errors="surrogatepass"))
    found = refused(lambda: classify_json.parse_examples(body, signatures, method), 400, 501)
    if found is not REFUSED:
        assert found.size == len(json_text.parse(body)["examples"])
        assert found.inputs.keys() == found.signature.inputs.keys()
        assert all(len(array) == found.size for array in found.inputs.values())


# Headers

KEYS = ["tfs-model-name", "tfs-model-version", "tfs-method", "x-tfs-method", "TFS-METHOD", ""]
VALUES = ["m", "1", "predict", "classify", "..", "../x", "9" * 19, "9" * 20, "-1", "é", "a=b", "", "predict ", "\0"]
TYPES = ["application/json", "text/csv", "application/*", "*/*", "application/x-npy", "text/html", "a", "", "*"]
PARAMETERS = [
    "",
    ";q=0",
    ";q=1",
    ";q=0.5",
    "; q=0.0001",
    ";q=",
    ';q="0.1"',
    ";charset=utf-8",
    ";;",
    ';x="a,b"',
    ";q=1e9",
]


def headers(make):
    pairs = make.many(lambda: make.one_of(KEYS) + make.one_of(["=", " = ", "", "=="]) + make.one_of(VALUES), 4)
    attributes = make.broken(",".join(pairs).encode(errors="replace")).decode("latin-1")
    found = refused(lambda: custom_attributes.parse(attributes), 400)
    if found is not REFUSED:
        assert found.method in (None, "predict", "classify", "regress")
        assert found.version is None or 0 <= found.version < 10**19
        assert found.model_name is None or not set(found.model_name) & set("/\\ =,\0"), found.model_name
    ranges = ",".join(make.many(lambda: make.one_of(TYPES) + make.one_of(PARAMETERS), 4))
    # No header has the end of a line in it.
    accept = make.broken(ranges.encode()).translate(None, b"\r\n").decode("latin-1")
    assert media_types.choose(accept) in media_types.ANSWERS
    assert isinstance(media_types.parse(accept).name, str)
    refused(lambda: content.parse_invocation(b"[1]", accept, MODELS[0]), 400, 415)


# Files

FOLDER = Path(tempfile.mkdtemp())


def model_file(make):
    graph = tagged(make) + make.message(4)
    data = make.broken(make.one_of([make.message(5), wire.bytes_field(2, graph)]))
    (FOLDER / saved_model.FILE_NAME).write_bytes(data)
    try:
        signatures = saved_model.read(FOLDER)
    except ModelError as error:
        assert str(error).startswith(str(FOLDER / saved_model.FILE_NAME)) and "\n" not in str(error), str(error)
        return
    for name, signature in signatures.items():
        assert isinstance(name, str) and isinstance(signature.method_name, str)
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            assert info.shape is None or all(size >= -1 for size in info.shape)


def tagged(make):
    """What a graph for serving has, and its signatures."""
    name = wire.bytes_field(1, b"x:0")
    shape = wire.bytes_field(3, make.message(2))
    info = wire.bytes_field(1, make.content()) + wire.bytes_field(
        2, name + wire.varint_field(2, make.number(30)) + shape
    )
    signature = wire.bytes_field(1, info) + make.message(2)
    entry = wire.bytes_field(1, b"serving_default") + wire.bytes_field(2, signature)
    return wire.bytes_field(1, wire.bytes_field(4, b"serve")) + wire.bytes_field(5, entry)


def warm_up_file(make):
    log = wire.bytes_field(make.one_of([2, 3, 4, 6]), wire.bytes_field(1, make.message(5)))
    record = make.one_of([log, make.message(3)])
    file = FOLDER / "requests"
    file.write_bytes(make.broken(len(record).to_bytes(8, "little") + bytes(4) + record + bytes(4)))
    try:
        for request in warm_up.requests(file):
            assert isinstance(request.signature, str)
            assert all(isinstance(array, np.ndarray) for array in request.inputs.values())
    except wire.WireError as error:
        assert "\n" not in str(error)


TARGETS = {
    each.__name__: each for each in (json_document, predict, invocation, examples, headers, model_file, warm_up_file)
}

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, lambda data: target(Maker(atheris.FuzzedDataProvider(data))))
    atheris.Fuzz()
