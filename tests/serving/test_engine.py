"""Models of real TensorFlow on all engines: what goes in and comes out, what is refused, and what stays behind."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import DEADLINE, PROGRAMS
from tf_toolkit.serving import c_api, wire
from tf_toolkit.serving.c_api import CApiEngine
from tf_toolkit.serving.errors import ModelError, ModelRunError

NUMBERS = [
    *("float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bool", "complex64", "complex128"),
]
SHAPES = [(), (0,), (1,), (2, 3), (2, 0, 3), (40, 50, 3), (1,) * 40]
# Empty, of the sizes around what a tensor's string holds in place, with NULs, and larger than any buffer.
STRINGS = [b"", b"a", b"\0", b"b" * 22, b"c" * 23, b"\0d\0" * 100, "größer".encode(), b"e" * 1_000_000]
MEGABYTE = 1024 * 1024
# What the programs find in the models of either TensorFlow.
ANSWERS: list[Any] = [
    {"y": [3.5, 4.0, 5.5]},
    {"y": [[3.5], [4.0]]},
    {"outputs": [[3.5], [3.5]]},
    {"classes": ["zero", "one"], "scores": [[3.5, 3.5]]},
    {"outputs": [[5.0]]},
    {"both": [[11.0, 12.0, 13.0]], "sum": [6.0], "twice": [20]},
    {"length": [5, 8, 100], "loud": ["QUIET", "GRößER", "LONG " * 20]},
    {"before": [""]},
    {"before": ["x" * 100]},
    {"number": [2, -1]},
    {"number": [2, -1]},
    "identities",
    [
        'INVALID_ARGUMENT: Serving signature name: "columns" not found in signature def',
        "INVALID_ARGUMENT: signature 'rows' takes a, b; given: a",
        "INVALID_ARGUMENT: output tensor alias not found in signature: product",
        "INVALID_ARGUMENT: input 'a' is of the type float64; the model takes float32",
        "INVALID_ARGUMENT: input 'text' is of the type object; the model takes bytes",
        "INVALID_ARGUMENT",
        "INVALID_ARGUMENT",
        "UNAVAILABLE: the model has been unloaded",
    ],
]


@pytest.fixture(params=["compiled", "ctypes"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the C API is called."""
    assert c_api.CompiledCall, "session/ is built with a C compiler and Python's headers"
    if request.param == "ctypes":
        monkeypatch.setattr(c_api, "CompiledCall", None)
    how: str = request.param
    return how


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[tuple[str, str], CApiEngine]]:
    """Those that were loaded, by how they call and by their names."""
    loaded: dict[tuple[str, str], CApiEngine] = {}
    yield loaded
    for each in loaded.values():
        each.close()


@pytest.fixture
def engine(calls: str, engines: dict[tuple[str, str], CApiEngine], saved_models: Path) -> Callable[[str], CApiEngine]:
    """Models by their names, loaded once."""

    def load(name: str) -> CApiEngine:
        if (calls, name) not in engines:
            engines[calls, name] = c_api.load(saved_models / name / "1")
        return engines[calls, name]

    return load


def strings(*items: object) -> Any:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def example(**features: float) -> bytes:
    """A tf.Example of floats."""
    entries = b""
    for name, value in features.items():
        floats = wire.bytes_field(2, wire.bytes_field(1, np.float32(value).tobytes()))
        entries += wire.bytes_field(1, wire.bytes_field(1, name.encode()) + wire.bytes_field(2, floats))
    return wire.bytes_field(1, entries)


def run_models(python: str, engine: str, when: str, folder: Path) -> tuple[list[Any], str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    command = [python, str(PROGRAMS / "serving" / "run_models.py"), engine, when, str(folder)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=5 * DEADLINE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize(
    ("calls", "when", "rounds"),
    [("compiled", "never", 1), ("compiled", "before", 1), ("compiled", "after", 2), ("ctypes", "never", 1)],
)
def test_it_lives_beside_tensorflow_in_python(saved_models: Path, calls: str, when: str, rounds: int) -> None:
    answers, log = run_models(sys.executable, calls, when, saved_models)

    assert answers == [ANSWERS] * rounds
    if when != "before":
        assert log == ""


def test_a_session_in_python_does_the_same_and_says_that_it_does(saved_models: Path) -> None:
    answers, log = run_models(sys.executable, "session", "never", saved_models)

    assert answers == [ANSWERS]
    assert log.count("there is no such library; models are run by Python's tensorflow") == 1


def test_tensorflow_2_15(tmp_path: Path) -> None:
    python = os.environ.get("TF_TOOLKIT_TEST_TF215_PYTHON")
    if not python:
        pytest.skip("TF_TOOLKIT_TEST_TF215_PYTHON names no Python with TensorFlow 2.15")
    program = PROGRAMS / "serving" / "make_models.py"
    subprocess.run([python, program, tmp_path], check=True, capture_output=True, timeout=5 * DEADLINE)

    for engine, when in (
        *(("compiled", "never"), ("compiled", "before"), ("compiled", "after")),
        *(("ctypes", "never"), ("session", "never")),
    ):
        answers, log = run_models(python, engine, when, tmp_path)
        assert answers == [ANSWERS] * len(answers)
        if engine != "session" and when == "never":
            assert log == ""
    # Older than the TensorFlow that serves them, as models come to be.
    assert run_models(sys.executable, "compiled", "never", tmp_path)[0] == [ANSWERS]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_of_every_type_and_rank(engine: Callable[[str], CApiEngine], name: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(np.prod(shape, dtype=int)) % 100).astype(name).reshape(shape)

    found = engine("identities").run(name, {"x": array})

    assert found["y"].dtype == array.dtype
    assert found["y"].shape == shape
    assert found["rank"].shape == ()
    assert found["rank"] == len(shape)
    np.testing.assert_array_equal(found["y"], array)


def test_plain_arrays_need_no_call_but_the_compiled_one(saved_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same, many = (c_api.load(saved_models / name / "1") for name in ("identities", "many"))
    monkeypatch.delattr(c_api._Session, "run")

    for name in NUMBERS:
        for shape in SHAPES:
            array = np.ones(shape, name)
            np.testing.assert_array_equal(same.run(name, {"x": array})["y"], array)
    assert many.run("rows", ROWS)["sum"].tolist() == [0, 0]
    assert list(many.run("rows", ROWS, ["twice", "sum"])) == ["twice", "sum"]
    # These do.
    with pytest.raises(AttributeError):
        same.run("string", {"x": strings(b"")})
    with pytest.raises(AttributeError):
        same.run("float32", {"x": np.ones((3, 4), np.float32).T})


def test_arrays_that_lie_in_another_order(engine: Callable[[str], CApiEngine]) -> None:
    array = np.arange(6000, dtype=np.float32).reshape(60, 100)

    for view in (array.T, array[::2, ::3], array[:, 5:6], np.asfortranarray(array), array[::-1]):
        np.testing.assert_array_equal(engine("identities").run("float32", {"x": view})["y"], view)


def test_arrays_of_every_kind(engine: Callable[[str], CApiEngine], tmp_path: Path) -> None:
    (tmp_path / "numbers").write_bytes(np.arange(6, dtype=np.int64).tobytes())
    arrays: list[Any] = [
        np.memmap(tmp_path / "numbers", np.int64, "r", shape=(2, 3)),
        np.frombuffer(np.arange(6, dtype=np.int64).tobytes(), np.int64),
        np.arange(6, dtype=np.longlong),
        np.broadcast_to(np.int64(7), (4, 5)),
        np.arange(12)[6:],
        np.int64(7),
    ]

    for array in arrays:
        found = engine("identities").run("int64", {"x": array})["y"]
        assert (type(found), found.shape, found.dtype) == (np.ndarray, array.shape, np.int64)
        assert found.tolist() == np.asarray(array).tolist()


def test_what_comes_out_may_be_written_to_and_is_nobody_elses(engine: Callable[[str], CApiEngine]) -> None:
    for size in (3, 100_000):
        array = np.ones(size, np.float32)
        first, second = (engine("identities").run("float32", {"x": array})["y"] for _ in range(2))
        first += 1
        assert second.max() == array.max() == 1


@pytest.mark.parametrize("shape", [(len(STRINGS),), (2, -1), (2, 2, -1)])
def test_strings(engine: Callable[[str], CApiEngine], shape: tuple[int, ...]) -> None:
    array = strings(*STRINGS).reshape(shape)

    found = engine("identities").run("string", {"x": array})["y"]

    assert found.shape == array.shape
    assert found.ravel().tolist() == STRINGS


def test_strings_as_other_programs_have_them(engine: Callable[[str], CApiEngine]) -> None:
    same = engine("identities")

    def run(array: Any) -> Any:
        return same.run("string", {"x": array})["y"].tolist()

    assert run(np.array(b"alone", object)) == b"alone"
    assert run(strings()) == []
    assert run(np.zeros((2, 0), object)) == [[], []]
    assert run(np.array(["ä", "bc"])) == ["ä".encode(), b"bc"]
    assert run(np.array([b"a", b"bc"])) == [b"a", b"bc"]
    assert run(strings("ä", b"bc")) == ["ä".encode(), b"bc"]


def test_strings_that_the_model_keeps_stay_as_they_were(engine: Callable[[str], CApiEngine]) -> None:
    remembers = engine("remembers")
    given = [[b"%d" % number * size for size in (1, 30, 5000)] for number in range(50)]
    remembers.run("serving_default", {"text": strings(b"")})

    for number, texts in enumerate(given):
        before = remembers.run("serving_default", {"text": strings(*texts)})["before"].tolist()
        gc.collect()
        assert before == (given[number - 1] if number else [b""])


def test_examples_of_a_tf1_model(engine: Callable[[str], CApiEngine]) -> None:
    model = engine("half_plus_two")
    examples = strings(example(x=1.0), example(x=2.0, x2=7.0), b"")

    assert model.run("tensorflow/serving/regress", {"inputs": examples})["outputs"].tolist() == [[2.5], [3.0], [2.5]]
    found = model.run("classify_labels", {"inputs": examples})
    assert found["classes"].tolist() == [[b"zero", b"one"]] * 3
    assert found["scores"].tolist() == [[2.5, 3.5], [3.0, 4.0], [2.5, 3.5]]
    # Shapes that the graph does not have: three numbers, which it takes one by one.
    assert model.run("serving_default", {"x": np.array([1, 2, 5], np.float32)})["y"].tolist() == [2.5, 3.0, 4.5]


def test_only_the_outputs_that_are_asked_for(engine: Callable[[str], CApiEngine]) -> None:
    model = engine("many")
    inputs = {"a": np.array([[1, 2, 3]], np.float32), "b": np.array([1])}

    assert list(model.run("rows", inputs, ["twice", "sum"])) == ["twice", "sum"]
    assert model.run("rows", inputs, ["sum"])["sum"].tolist() == [6]
    assert model.run("rows", inputs, ["sum", "sum"])["sum"].tolist() == [6]
    with pytest.raises(ModelRunError, match="output tensor alias not found in signature: product"):
        model.run("rows", inputs, ["sum", "product"])


ROWS = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.int64)}


@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        ("columns", ROWS, 'Serving signature name: "columns" not found in signature def'),
        ("rows", {"a": ROWS["a"]}, "signature 'rows' takes a, b; given: a"),
        ("rows", {**ROWS, "c": ROWS["a"]}, "signature 'rows' takes a, b; given: a, b, c"),
        ("rows", {}, "signature 'rows' takes a, b; given: none"),
        ("rows", {**ROWS, "a": np.zeros((2, 3))}, "input 'a' is of the type float64; the model takes float32"),
        ("rows", {**ROWS, "a": strings(b"")}, "input 'a' is of the type object; the model takes float32"),
        ("rows", {**ROWS, "a": np.zeros((2, 3), ">f4")}, "input 'a' is of the type >f4; the model takes float32"),
        ("shout", {"text": np.zeros(3)}, "input 'text' is of the type float64; the model takes bytes"),
        ("shout", {"text": strings(b"", 7)}, "input 'text' is of the type object; the model takes bytes"),
        ("rows", {**ROWS, "b": np.zeros(7, np.int64)}, "required broadcastable shapes|Incompatible shapes"),
        ("rows", {**ROWS, "a": np.zeros((), np.float32)}, "Invalid reduction dimension"),
        ("positive", {"a": np.array([1, -1], np.float32)}, "a must not be negative"),
    ],
)
def test_what_is_refused(
    engine: Callable[[str], CApiEngine], signature: str, inputs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelRunError, match=message) as raised:
        engine("many").run(signature, inputs)

    assert (raised.value.code, raised.value.status) == ("INVALID_ARGUMENT", 400)
    assert engine("many").run("rows", ROWS)["sum"].tolist() == [0, 0]


def test_the_compiled_call_says_what_tensorflow_says(saved_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[tuple[str, dict[str, Any]]] = [
        ("rows", {**ROWS, "b": np.zeros(7, np.int64)}),
        ("rows", {**ROWS, "a": np.zeros((), np.float32)}),
        ("positive", {"a": np.array([1, -1], np.float32)}),
    ]

    def errors() -> Iterator[tuple[str, str]]:
        model = c_api.load(saved_models / "many" / "1")
        for signature, inputs in refused:
            with pytest.raises(ModelRunError) as raised:
                model.run(signature, inputs)
            yield raised.value.code, raised.value.message

    compiled = list(errors())
    monkeypatch.setattr(c_api, "CompiledCall", None)

    assert compiled == list(errors())


def test_from_many_threads(engine: Callable[[str], CApiEngine]) -> None:
    model, together = engine("many"), threading.Barrier(8, timeout=DEADLINE)

    def run(thread: int) -> None:
        together.wait()
        for number in range(200):
            rows = number % 7 + 1
            a = np.full((rows, 3), thread * 1000 + number, np.float32)
            found = model.run("rows", {"a": a, "b": np.full(rows, thread)})
            np.testing.assert_array_equal(found["sum"], a.sum(1))
            assert found["twice"].tolist() == [2 * thread] * rows
            word = b"%d" % number * 9
            assert model.run("shout", {"text": strings(word)})["loud"].tolist() == [word.upper()]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(run, range(8)))


def resident() -> int:
    """The memory of this process, in bytes."""
    found = re.search(r"VmRSS:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_runs_leave_no_memory_behind(engine: Callable[[str], CApiEngine]) -> None:
    many, same = engine("many"), engine("identities")
    large, words = np.ones((50, 1000), np.float32), strings(*[b"word" * 100] * 500)

    def run() -> None:
        same.run("float32", {"x": large})
        same.run("string", {"x": words})
        many.run("shout", {"text": words})
        with pytest.raises(ModelRunError):
            many.run("rows", {"a": large, "b": np.zeros(3, np.int64)})

    for _ in range(20):
        run()
    before = resident()
    for _ in range(300):
        run()

    # Were one of these arrays kept each time, it would be 60 MB at least.
    assert resident() - before < 20 * MEGABYTE


def test_a_hundred_thousand_compiled_calls_leave_not_a_byte_behind(saved_models: Path) -> None:
    many = c_api.load(saved_models / "many" / "1")
    many.run("rows", ROWS)
    run = many._calls["rows"].compiled
    wrong, other, few = np.zeros(2), np.zeros(4, np.int64)[::2], np.zeros(3, np.int64)
    # It runs; an array is not of its type, or in no order, once there is a tensor of the other; the run fails.
    cases = [(ROWS["b"], dict), (wrong, type(None)), (other, type(None)), (few, tuple)]

    for b, kind in cases:
        held = sys.getrefcount(ROWS["a"]), sys.getrefcount(b)
        for times in (1000, 100_000):
            before = resident()
            for _ in range(times):
                assert type(run({"a": ROWS["a"], "b": b})) is kind
        # Whatever it was, it would have 16 bytes.
        assert resident() - before < 1_600_000
        assert (sys.getrefcount(ROWS["a"]), sys.getrefcount(b)) == held


def test_unloading_gives_the_memory_back(calls: str, saved_models: Path) -> None:
    def load_and_run() -> None:
        model = c_api.load(saved_models / "weights" / "1")
        model.run("serving_default", {"x": np.zeros((1, 1024), np.float32)})
        model.close()

    # It takes some rounds until the C library asks for no more than it gets back.
    for _ in range(10):
        load_and_run()
    before = resident()
    for _ in range(20):
        load_and_run()

    # Each has 16 MB of weights.
    assert resident() - before < 96 * MEGABYTE


def test_unloading_while_it_runs(calls: str, saved_models: Path) -> None:
    model = c_api.load(saved_models / "weights" / "1")
    x = np.ones((64, 1024), np.float32)
    expected = model.run("serving_default", {"x": x})["y"]
    answered = threading.Semaphore(0)

    def run_until_unloaded() -> int:
        for number in range(1_000_000):
            try:
                found = model.run("serving_default", {"x": x})["y"]
            except ModelRunError as error:
                assert (error.code, error.status) == ("UNAVAILABLE", 503)
                return number
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
            answered.release()
        raise AssertionError("it is never unloaded")

    with ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(run_until_unloaded) for _ in range(4)]
        for _ in range(8):
            assert answered.acquire(timeout=DEADLINE)
        model.close()
        assert sum(run.result(DEADLINE) for run in runs) >= 8


def test_memory_that_is_short_is_an_error_and_no_end(calls: str, saved_models: Path) -> None:
    program = PROGRAMS / "serving" / "run_short_of_memory.py"
    model = saved_models / "identities" / "1"

    done = subprocess.run([sys.executable, program, calls, model], capture_output=True, text=True, timeout=DEADLINE)

    assert (done.returncode, done.stdout) == (0, "MemoryError\n3.0\n"), done.stderr


def copy_of(source: Path, target: Path) -> Path:
    for file in source.rglob("*"):
        if file.is_file():
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    return target


def test_models_that_cannot_be_loaded(saved_models: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"{tmp_path}/none/saved_model.pb: cannot be read: No such file or directory"):
        c_api.load(tmp_path / "none")

    cut = copy_of(saved_models / "digits" / "1", tmp_path / "cut")
    (weights,) = (cut / "variables").glob("variables.data-*")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=rf"^{cut}: TensorFlow cannot load this model: [A-Z_]+: "):
        c_api.load(cut)

    without = copy_of(saved_models / "vocabulary" / "1", tmp_path / "without")
    (without / "assets" / "words.txt").unlink()
    with pytest.raises(ModelError, match=r"words.txt"):
        c_api.load(without)


def test_threads_may_be_set(saved_models: Path) -> None:
    model = c_api.load(saved_models / "many" / "1", intra_op=1, inter_op=2)

    assert model.run("rows", ROWS)["sum"].tolist() == [0, 0]
