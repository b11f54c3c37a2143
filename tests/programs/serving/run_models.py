"""Runs the models of make_models.py as the server would.

usage: run_models.py compiled|ctypes|session never|before|after FOLDER

Says what came out as JSON. `tensorflow` is used in the same process as well, before the models or between two rounds.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tf_toolkit.serving import c_api, c_library, loading, session
from tf_toolkit.serving.errors import ModelRunError

engine, when, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
DTYPES = ["float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


def unavailable():
    raise OSError("there is no such library")


def use_tensorflow():
    import tensorflow as tf

    assert tf.reduce_sum(tf.constant([1, 2])).numpy() == 3
    np.random.default_rng(0).normal()


def strings(*items):
    return np.array(items, object)


def answers():
    cases = [
        ("half_plus_three", "serving_default", {"x": np.array([1.0, 2.0, 5.0], np.float32)}),
        ("half_plus_three", "serving_default", {"x": np.array([[1.0], [2.0]], np.float32)}),
        ("half_plus_three", "tensorflow/serving/regress", {"inputs": strings(b"", b"")}),
        ("half_plus_three", "classify_labels", {"inputs": strings(b"")}),
        ("half_plus_three", "regress_x2_to_y3", {"inputs": np.array([[4.0]], np.float32)}),
        ("many", "rows", {"a": np.array([[1, 2, 3]], np.float32), "b": np.array([10])}),
        ("many", "shout", {"text": strings(b"quiet", "größer".encode(), b"long " * 20)}),
        ("remembers", "serving_default", {"text": strings(b"x" * 100)}),
        ("remembers", "serving_default", {"text": strings(b"")}),
        ("vocabulary", "serving_default", {"word": strings(b"cow", b"dog")}),
        ("vocabulary_1", "serving_default", {"word": strings(b"cow", b"dog")}),
    ]
    models = {}
    for model, signature, inputs in cases:
        if model not in models:
            models[model] = loading.open_model(folder / model / "1")
            wanted = session.SessionEngine if engine == "session" else c_api.CApiEngine
            assert isinstance(models[model], wanted)
        found = models[model].run(signature, inputs)
        yield {name: shown(array) for name, array in found.items()}
    same = loading.open_model(folder / "identities" / "1")
    for name in [*DTYPES, "bool", "complex64", "complex128"]:
        for shape in ([], [0], [2, 3], [1, 0, 2]):
            array = np.arange(np.prod(shape, dtype=int)).astype(name).reshape(shape)
            found = same.run(name, {"x": array})
            assert found["y"].dtype == array.dtype and found["rank"] == len(shape)
            np.testing.assert_array_equal(found["y"], array)
    yield "identities"
    yield refused(models["many"])


def refused(model):
    """What is said, where it is in our own words, and TensorFlow's code."""
    rows = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.int64)}
    cases = [
        ("columns", rows, None),
        ("rows", {"a": rows["a"]}, None),
        ("rows", rows, ["product"]),
        ("rows", {**rows, "a": np.zeros((2, 3))}, None),
        ("shout", {"text": strings(7)}, None),
        ("rows", {**rows, "b": np.zeros(7, np.int64)}, None),
        ("positive", {"a": np.array([-1], np.float32)}, None),
    ]
    found = []
    for number, (signature, inputs, outputs) in enumerate(cases):
        try:
            model.run(signature, inputs, outputs)
        except ModelRunError as error:
            found.append(f"{error.code}: {error.message}" if number < 5 else error.code)
    model.close()
    try:
        model.run("rows", rows)
    except ModelRunError as error:
        found.append(f"{error.code}: {error.message}")
    return found


def shown(array):
    if array.dtype == object:
        return [item.decode() for item in array.ravel().tolist()]
    return array.tolist()


if engine == "session":
    c_library.library = unavailable
elif engine == "ctypes":
    c_api.CompiledCall = None
else:
    assert c_api.CompiledCall
if when == "before":
    use_tensorflow()
rounds = [list(answers())]
if when == "after":
    use_tensorflow()
    rounds.append(list(answers()))
environment = subprocess.run(["env"], stdout=subprocess.PIPE, text=True, check=True).stdout
assert ("TF_CPP_MIN_LOG_LEVEL" in environment) == ("TF_CPP_MIN_LOG_LEVEL" in os.environ)
print(json.dumps(rounds))
