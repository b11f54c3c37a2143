"""PipeModeDataset over real FIFOs, by the compiled reader and in Python, as a script uses it."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import DEADLINE, PROGRAMS
from pipe import FORMATS, Pipes, crc, cut, framed, record_io
from tf_toolkit.pipe_mode import PipeModeDataset, PipeModeDatasetException, channel, compiled_reader

# Of the smallest size, of those around what a tensor's string holds in place, and larger than any buffer.
RECORDS = [b"", b"a", b"b" * 22, b"c" * 23, b"d" * 1000, b"e\r" * 40_000, b"f", b"g" * 2_500_000, *[b"h" * 100] * 3000]
SIZES = [1, 2, 3, 7, 100, 5000, 70_000, 300_000]
# What runs in the background of an iterator needs some moments to see that it has ended.
STUCK = 30.0


@pytest.fixture(params=["compiled", "python"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "python":
        monkeypatch.setattr(compiled_reader, "library", lambda: None)
    else:
        assert compiled_reader.library() is not None
    return str(request.param)


@pytest.fixture
def pipes(tmp_path: Path) -> Pipes:
    return Pipes(tmp_path / "ml")


def read(dataset: Any) -> list[Any]:
    return [element.numpy() for element in dataset]


def stream(record_format: str, records: list[bytes]) -> bytes:
    return b"".join(framed(record_format, record) for record in records)


@pytest.mark.parametrize("record_format", FORMATS)
def test_records_come_whole_and_in_order_one_by_one_and_in_batches(
    reader: str, pipes: Pipes, record_format: str
) -> None:
    data = stream(record_format, RECORDS)
    pipes.feed(*(cut(data, SIZES) for _ in range(4)))
    dataset = pipes.dataset(record_format=record_format)

    assert read(dataset) == RECORDS
    batches = read(dataset.batch(1000))
    assert [len(batch) for batch in batches] == [1000, 1000, 1000, len(RECORDS) - 3000]
    assert [record for batch in batches for record in batch] == RECORDS
    assert [len(batch) for batch in read(dataset.batch(1000, drop_remainder=True))] == [1000, 1000, 1000]
    assert [len(batch) for batch in read(dataset.batch(2000, num_parallel_calls=2))] == [2000, len(RECORDS) - 2000]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    record_format=st.sampled_from(FORMATS),
    records=st.lists(st.binary(max_size=200).map(lambda record: record.translate(None, b"\n\x1f")), max_size=30),
    sizes=st.lists(st.integers(1, 300), min_size=1),
    batch_size=st.integers(1, 12),
)
def test_any_records_in_any_pieces(
    reader: str,
    tmp_path_factory: pytest.TempPathFactory,
    record_format: str,
    records: list[bytes],
    sizes: list[int],
    batch_size: int,
) -> None:
    pipes = Pipes(tmp_path_factory.mktemp("any") / "ml")
    data = stream(record_format, records)
    pipes.feed(cut(data, sizes), cut(data, sizes))

    assert read(pipes.dataset(record_format=record_format)) == records
    batches = read(pipes.dataset(record_format=record_format).batch(batch_size))
    assert [list(batch) for batch in batches] == [
        records[at : at + batch_size] for at in range(0, len(records), batch_size)
    ]


def test_records_of_several_parts(reader: str, pipes: Pipes) -> None:
    pipes.feed(record_io(1, b"ab") + record_io(2, b"c") + record_io(3, b"defg") + record_io(0, b"h"))

    assert read(pipes.dataset()) == [b"abcdefg", b"h"]


def test_it_is_a_dataset_as_any(reader: str, pipes: Pipes) -> None:
    numbers = [b"%d" % number for number in range(10)]
    pipes.feed(*[stream("TextLine", numbers)] * 4)
    pipes.feed(stream("RecordIO", numbers), channel="other")
    dataset = pipes.dataset(record_format="TextLine")
    assert isinstance(dataset, tf.data.Dataset)
    assert dataset.element_spec == tf.TensorSpec([], tf.string)

    doubled = dataset.map(lambda text: 2 * tf.strings.to_number(text, tf.int64)).prefetch(2).take(3)
    assert read(doubled) == [0, 2, 4]
    both = tf.data.Dataset.zip((dataset, pipes.dataset("other")))
    assert [(one.numpy(), two.numpy()) for one, two in both] == [(text, text) for text in numbers]
    mixed = tf.data.Dataset.choose_from_datasets([dataset, tf.data.Dataset.from_tensors(b"x").repeat(10)], choice())
    assert read(mixed) == [part for text in numbers for part in (text, b"x")]

    @tf.function  # type: ignore[untyped-decorator]
    def total() -> tf.Tensor:
        found = tf.constant(0, tf.int64)
        for text in dataset:
            found += tf.strings.to_number(text, tf.int64)
        return found

    assert total().numpy() == 45


def choice() -> Any:
    return tf.data.Dataset.range(2).repeat(10)


def test_keras_and_a_strategy_train_from_it(reader: str, pipes: Pipes) -> None:
    lines = stream("TextLine", [b"%d,%d" % (number, 3 * number) for number in range(64)])
    pipes.feed(*[lines] * 5)

    def parse(batch: Any) -> Any:
        columns = tf.io.decode_csv(batch, [0.0, 0.0])
        return columns[0][:, None] / 64, columns[1][:, None] / 64

    dataset = pipes.dataset(record_format="TextLine").batch(16).map(parse)
    model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
    model.compile(optimizer=tf.keras.optimizers.SGD(0.5), loss="mse")
    history = model.fit(dataset, epochs=4, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][1] / 2

    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    per_worker = strategy.distribute_datasets_from_function(lambda context: dataset)
    assert sum(int(tf.shape(features)[0]) for features, _ in per_worker) == 64


def test_every_iterator_is_the_next_pass_also_of_another_process(reader: str, pipes: Pipes) -> None:
    pipes.feed(*(stream("TextLine", [b"%d" % number]) for number in range(5)))
    dataset = pipes.dataset(record_format="TextLine")

    assert read(dataset.repeat(2)) == [b"0", b"1"]
    assert read(dataset) == [b"2"]
    assert (pipes.state / ".train-pipe_mode-state").read_text() == "3"
    assert read_by(sys.executable, pipes, reader, "TextLine") == ["1 records, 1 bytes"]
    assert read(dataset) == [b"4"]


def read_by(python: str, pipes: Pipes, reader: str, *formats: str) -> list[str]:
    """What another process reads as the next passes."""
    words = [python, str(PROGRAMS / "pipe_mode" / "read.py"), str(pipes.data.parent.parent), reader, *formats]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_tensorflow_2_15_reads_it_too(reader: str, pipes: Pipes) -> None:
    python = os.environ.get("TF_TOOLKIT_TEST_TF215_PYTHON")
    if not python:
        pytest.skip("TF_TOOLKIT_TEST_TF215_PYTHON names no Python with TensorFlow 2.15")
    pipes.feed(*(cut(stream(record_format, RECORDS), SIZES) for record_format in FORMATS))

    assert read_by(python, pipes, reader, *FORMATS) == [f"{len(RECORDS)} records, {sum(map(len, RECORDS))} bytes"] * 3


def test_a_slow_writer_loses_nothing_in_ten_passes(reader: str, pipes: Pipes) -> None:
    records = [b"%d" % number for number in range(300)]

    def bursts(data: bytes) -> Iterator[bytes]:
        for number, piece in enumerate(cut(data, [1, 400, 13, 50])):
            if number % 5 == 0:
                time.sleep(0.01)
            yield piece

    pipes.feed(*(bursts(stream("RecordIO", records)) for _ in range(10)))

    assert read(pipes.dataset().repeat(10)) == records * 10


def test_a_writer_and_a_fifo_that_come_late_are_waited_for(reader: str, pipes: Pipes) -> None:
    iterator = iter(pipes.dataset(record_format="TextLine").batch(2))
    writer = pipes.feed(stream("TextLine", [b"a", b"b", b"c"]))

    assert [batch.numpy().tolist() for batch in iterator] == [[b"a", b"b"], [b"c"]]
    writer.join(DEADLINE)
    assert not writer.is_alive()


def test_a_reader_that_stops_early_lets_the_writer_go(reader: str, pipes: Pipes) -> None:
    writer = pipes.feed(cut(stream("RecordIO", [b"x" * 1000] * 20_000), [100_000]))

    assert read(pipes.dataset().take(3)) == [b"x" * 1000] * 3
    gc.collect()
    writer.join(STUCK)
    assert writer.left == ["train_0"]


@pytest.mark.parametrize("makes_fifo", [True, False])
def test_an_iterator_whose_writer_does_nothing_can_be_ended(reader: str, pipes: Pipes, makes_fifo: bool) -> None:
    if makes_fifo:
        os.mkfifo(pipes.data / "train_0")
    iterator = iter(pipes.dataset().prefetch(1))
    started = time.monotonic()
    del iterator
    gc.collect()

    assert time.monotonic() - started < STUCK


def raises(dataset: Any) -> tuple[list[bytes], str]:
    """What an iterator gives before it fails, and how it does."""
    found = []
    with pytest.raises(tf.errors.OpError) as raised:
        for record in dataset:
            found.append(record.numpy())
    return found, str(raised.value)


WRONG = framed("TFRecord", b"bad")[:-4] + crc(b"other")


@pytest.mark.parametrize(
    ("record_format", "data", "found", "error"),
    [
        ("RecordIO", framed("RecordIO", b"good") + b"\0" * 8, [b"good"], "record 1, byte 12: there is no RecordIO"),
        ("RecordIO", framed("RecordIO", b"good")[:-1], [], "record 0, byte 0: the stream ends inside the record"),
        (
            "RecordIO",
            framed("RecordIO", b"good") + b"\x0a",
            [b"good"],
            "record 1, byte 12: the stream ends inside the ",
        ),
        ("RecordIO", record_io(1, b"part"), [], "the stream ends between the parts of the record"),
        ("TFRecord", framed("TFRecord", b"good") * 2 + WRONG, [b"good"] * 2, "record 2, byte 40: the checksum of the"),
        ("TFRecord", framed("TFRecord", b"good")[:-1], [], "record 0, byte 0: the stream ends inside the record"),
        ("TFRecord", b"\0" * 20, [], "record 0, byte 0: the checksum of the record's length is wrong"),
        ("TFRecord", b"\xff" * 8 + crc(b"\xff" * 8), [], "the record's length is more than any stream has"),
        ("TextLine", b"\x1f\x8b\x08\0", [], "this is a gzip stream: say compression='Gzip'"),
        ("TFRecord", b"\x1f\x8b\x08\0" * 5, [], "this is a gzip stream: say compression='Gzip'"),
    ],
)
def test_a_stream_that_is_wrong_is_one_error_with_its_place(
    reader: str, pipes: Pipes, record_format: str, data: bytes, found: list[bytes], error: str
) -> None:
    pipes.feed(data, data)

    for dataset in (pipes.dataset(record_format=record_format), pipes.dataset(record_format=record_format).batch(1)):
        records, said = raises(dataset.map(lambda record: tf.reshape(record, [])))
        assert records == found
        assert "channel 'train', epoch " in said
        assert error in said


def test_what_is_wrong_with_a_stream_is_an_internal_error(pipes: Pipes) -> None:
    pipes.feed(b"nothing of the kind")

    with pytest.raises(tf.errors.InternalError):
        read(pipes.dataset())


def test_records_with_a_wrong_checksum_are_left_out_as_far_as_is_allowed(reader: str, pipes: Pipes) -> None:
    good = framed("TFRecord", b"good")
    data = good + WRONG * 2 + good + WRONG + good
    pipes.feed(*[data] * 3)
    options = {"record_format": "TFRecord"}

    assert read(pipes.dataset(**options, max_corrupted_records_to_skip=2)) == [b"good"] * 3
    assert read(pipes.dataset(**options, verify_checksums=False)).count(b"bad") == 3
    assert raises(pipes.dataset(**options, max_corrupted_records_to_skip=1))[0] == [b"good"]


def test_one_wrong_bit_of_a_record_of_any_size_is_noticed(reader: str, pipes: Pipes) -> None:
    numbers = random.Random(3)
    records = [numbers.randbytes(size) for size in [*range(1, 900, 3), 4096, 100_003]]
    data = b""
    for record in records:
        frame = bytearray(framed("TFRecord", record))
        frame[12 + numbers.randrange(len(record))] ^= 1 << numbers.randrange(8)
        data += framed("TFRecord", record) + frame
    pipes.feed(data)

    assert read(pipes.dataset(record_format="TFRecord", max_corrupted_records_to_skip=1)) == records


def test_a_fifo_that_never_comes_is_named(reader: str, pipes: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "WAIT_SECONDS", 0.1)

    said = raises(pipes.dataset())[1]

    assert f"channel 'train', epoch 0: {pipes.data}/train_0 has not come" in said
    # The next iterator waits for the same one.
    assert not (pipes.state / ".train-pipe_mode-state").exists()


def test_a_state_that_is_no_number_is_named(reader: str, pipes: Pipes) -> None:
    dataset = pipes.dataset()
    (pipes.state / ".train-pipe_mode-state").write_text("x")

    assert "-pipe_mode-state holds 'x', not the number of the next pass; remove it" in raises(dataset)[1]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"channel": "absent"}, "there is no channel 'absent' in .*inputdataconfig.json, but: files, other, train"),
        ({"channel": "files"}, "channel 'files' is in File mode, .*input_mode='Pipe'"),
        ({"max_corrupted_records_to_skip": 1}, "is for TFRecord: RecordIO has no checksums"),
    ],
)
def test_what_cannot_be_is_said_at_once(pipes: Pipes, options: dict[str, Any], error: str) -> None:
    with pytest.raises(PipeModeDatasetException, match=error):
        pipes.dataset(**options)


@pytest.mark.parametrize("content", [None, b"{", b"[]", b'{"train": 1}'])
def test_a_configuration_that_is_wrong_is_named(pipes: Pipes, content: bytes | None) -> None:
    file = pipes.config / "inputdataconfig.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(PipeModeDatasetException, match=r"inputdataconfig\.json"):
        pipes.dataset()


def test_a_format_that_there_is_not(pipes: Pipes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="record_format is 'CSV', but one of RecordIO, TFRecord,"):
        pipes.dataset(record_format="CSV")


def test_benchmark_prints_what_came(reader: str, pipes: Pipes, capfd: pytest.CaptureFixture[str]) -> None:
    pipes.feed(stream("TextLine", [b"abc"] * 10))

    read(pipes.dataset(record_format="TextLine", benchmark=True, benchmark_records_interval=4))
    gc.collect()

    out = capfd.readouterr().out.splitlines()
    assert [line for line in out if line.endswith(" records")] == [
        f"PipeModeDataset: channel 'train', epoch 0: {number} records" for number in (4, 8)
    ]
    assert " ms, 40 bytes, " in out[-1]


def test_scripts_find_it_under_the_name_that_they_know(tmp_path: Path) -> None:
    code = "import sagemaker_tensorflow; print(sagemaker_tensorflow.PipeModeDataset)"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ours = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert ours.stdout == f"{PipeModeDataset}\n"

    # Where the package of that name is installed, it is that.
    (tmp_path / "sagemaker_tensorflow.py").write_text("PipeModeDataset = 'theirs'")
    environ["PYTHONPATH"] = str(tmp_path)
    theirs = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert theirs.stdout == "theirs\n"
