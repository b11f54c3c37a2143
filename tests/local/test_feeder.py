"""`tf-toolkit run --input-mode Pipe`: what scripts find in FIFOs, and that a job ends whatever is done with them."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from command_line import everything, explained, finish, one_line, script, start, tf_toolkit, trap
from conftest import Result, wait_until
from tf_toolkit.local import feeder
from tf_toolkit.local.job import job

# A pass over the channel of the fixture.
WHOLE = b"a\nb\nc/a\n"
READ = """
import hashlib, os, signal, subprocess, sys, time
base = os.environ["SM_CHANNEL_TRAIN"]
def wait_for(number):
    while not os.path.exists(f"{base}_{number}"):
        time.sleep(0.01)
def opened(number):
    wait_for(number)
    return open(f"{base}_{number}", "rb", buffering=0)
def read(number):
    with opened(number) as fifo:
        return fifo.readall()
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A person's folder: a channel of three files."""
    for name in ("b", "a", "c/a"):
        script(tmp_path, f"{name}\n", f"data/{name}")
    return tmp_path


def run(desk: Path, text: str, *words: str, **options: Any) -> Result:
    """A job of a script that can `read` passes, and has the channel `train`."""
    script(desk, READ + text)
    return tf_toolkit(desk, *words_of_run(words), **options)


def words_of_run(words: tuple[str, ...]) -> tuple[str, ...]:
    channel = () if any(word.startswith("train=") for word in words) else ("--train", "data")
    return ("run", "train.py", "--input-mode", "Pipe", "--output", "out", *channel, *words)


def passes(desk: Path, *words: str, count: int = 3) -> list[bytes]:
    result = run(desk, f"for number in range({count}): os.write(1, read(number) + b'|')", *words)
    assert result.status == 0, result.log
    return result.stdout.split(b"|")[:-1]


LOOKS = """
print(os.environ["SM_INPUT_DATA_CONFIG"], os.path.exists(base))
folder = os.path.dirname(base)
print(os.listdir(folder))
for number in range(2):
    with opened(number) as fifo:
        wait_for(number + 1)
        modes = {name: oct(os.stat(f"{folder}/{name}").st_mode) for name in sorted(os.listdir(folder))}
        print(modes, len(fifo.readall()), os.listdir(folder))
"""


def test_a_fifo_is_there_for_each_pass_and_the_next_once_it_is_opened(desk: Path) -> None:
    # More than a pipe holds.
    (desk / "data" / "b").write_bytes(bytes(10_000_000))

    result = run(desk, LOOKS, preexec_fn=lambda: os.umask(0o077))

    assert result.status == 0, result.log
    assert result.stdout.decode().splitlines() == [
        '{"train":{"TrainingInputMode":"Pipe"}} False',
        "['train_0']",
        "{'train_0': '0o10666', 'train_1': '0o10666'} 10000006 ['train_1']",
        "{'train_1': '0o10666', 'train_2': '0o10666'} 10000006 ['train_2']",
    ]
    assert list((result.root / "input" / "data").iterdir()) == []
    assert result.succeeded


def test_a_pass_is_all_files_one_after_another_sorted_by_name(desk: Path) -> None:
    script(desk, "", "data/empty")
    script(desk, "c!\n", "data/c!")
    (desk / "data" / "link").symlink_to(desk / "data" / "c")
    (desk / "data" / "circle").symlink_to(desk / "data")

    # As S3 lists them: "c!" is before "c/".
    assert passes(desk) == 3 * [b"a\nb\nc!\nc/a\nc/a\n"]
    assert passes(desk, "--channel", "train=data/b") == 3 * [b"b\n"]


def test_a_seed_gives_each_pass_an_order_of_its_own_which_is_always_the_same(desk: Path) -> None:
    for number in range(20):
        script(desk, f"{number}\n", f"data/{number}")
    in_order = passes(desk, count=1)[0]

    seen = passes(desk, "--shuffle-seed", "7")
    other = passes(desk, "--shuffle-seed", "-8")

    assert seen == passes(desk, "--shuffle-seed", "7")
    assert len({in_order, *seen, *other}) == 7
    assert {tuple(sorted(one.split())) for one in (*seen, *other)} == {tuple(sorted(in_order.split()))}


def test_compressed_files_are_unzipped_before_the_fifo(desk: Path) -> None:
    big = random.Random(1).randbytes(1 << 20) * 3
    files = {"a": b"one\n", "b": b"", "c/a": big}
    for name, content in files.items():
        # A stream of several members is one stream too.
        zipped = gzip.compress(content[:2]) + gzip.compress(content[2:])
        (desk / "data" / name).write_bytes(zipped)

    text = "print(hashlib.sha256(read(0)).hexdigest(), os.environ['SM_INPUT_DATA_CONFIG'])"
    unzipped = run(desk, text, "--compression", "Gzip")
    as_they_are = run(desk, text)

    digest, config = unzipped.stdout.decode().split()
    assert digest == hashlib.sha256(b"one\n" + big).hexdigest()
    assert json.loads(config) == {"train": {"CompressionType": "Gzip", "TrainingInputMode": "Pipe"}}
    digest, config = as_they_are.stdout.decode().split()
    assert digest == hashlib.sha256(b"".join((desk / "data" / name).read_bytes() for name in files)).hexdigest()
    assert json.loads(config) == {"train": {"TrainingInputMode": "Pipe"}}


def test_every_host_gets_all_of_every_channel(desk: Path) -> None:
    text = "other = open(os.environ['SM_CHANNEL_TEST'] + '_0').read()\nprint(read(0), read(1), other)"
    script(desk, "tested", "test.csv")

    result = run(desk, text, "--channel", "test=test.csv", "--hosts", "3")

    assert result.status == 0, result.log
    assert sorted(result.stdout.decode().splitlines()) == [
        f"[127.0.0.{host}] {WHOLE!r} {WHOLE!r} tested" for host in (1, 2, 3)
    ]


TEN = """
for number in range(10):
    with opened(number) as fifo:
        seen = hashlib.sha256()
        while piece := fifo.read(random.choice([1, 100, 5000, 70000, 3000000])):
            seen.update(piece)
    print(seen.hexdigest())
"""


def test_ten_passes_are_whole_however_they_are_read(desk: Path) -> None:
    numbers = random.Random(2)
    contents = {
        f"{number:02}": numbers.randbytes(numbers.choice([1, 4095, 4096, 1 << 20, 3_000_001])) for number in range(9)
    }
    for name, content in contents.items():
        (desk / "data" / name).write_bytes(content)
    whole = b"".join(contents.values()) + WHOLE

    result = run(desk, f"import random\nrandom.seed(3)\n{TEN}")

    assert result.status == 0, result.log
    assert result.stdout.decode().split() == 10 * [hashlib.sha256(whole).hexdigest()]


def test_a_reader_that_stops_early_is_done_with_that_pass_alone(desk: Path) -> None:
    (desk / "data" / "b").write_bytes(bytes(10_000_000))

    result = run(desk, "opened(0).close()\nprint(opened(1).read(1))\nprint(len(read(2)))")

    assert result.status == 0, result.log
    assert result.stdout == b"b'a'\n10000006\n"


def test_a_file_that_the_kernel_cannot_send_is_read(desk: Path) -> None:
    """Some file systems have no splice(2); this one's files are their readers' own."""
    result = run(
        desk, "print(b'HERE=a b' in read(0))", "--channel", "train=/proc/self/environ", variables={"HERE": "a b"}
    )

    assert result.stdout == b"True\n", result.log


MEMORY = """
size = 0
with opened(0) as fifo:
    while piece := fifo.read(1 << 20):
        size += len(piece)
train = int(open(f"/proc/{os.getppid()}/stat").read().split()[3])
peak = next(line for line in open(f"/proc/{train}/status") if line.startswith("VmHWM"))
print(size, peak.split()[1])
"""


@pytest.mark.parametrize("words", [[], ["--compression", "Gzip"]])
def test_files_are_not_held_in_memory(desk: Path, words: list[str]) -> None:
    size = 300_000_000
    with (desk / "large").open("wb") as file, gzip.open(file, "wb", 1) if words else file as content:
        for _ in range(300):
            content.write(bytes(1_000_000))

    result = run(desk, MEMORY, "--channel", "train=large", *words)

    assert result.status == 0, result.log
    read, peak = map(int, result.stdout.split())
    assert read == size
    # In KiB; the interpreter is most of it.
    assert peak < 64 << 10


@pytest.mark.parametrize(
    ("text", "status"),
    [
        pytest.param("", 0, id="opens none"),
        pytest.param("fifo = opened(0)", 0, id="opens and never reads"),
        pytest.param("print(opened(0).read(1000))", 0, id="reads a part"),
        pytest.param("os.open(base + '_0', os.O_RDONLY | os.O_NONBLOCK)\nwait_for(1)", 0, id="opens and goes on"),
        pytest.param("os.remove(base + '_0')", 0, id="removes the FIFO"),
        pytest.param("fifo = opened(0)\nos.remove(base + '_0')\nprint(fifo.read(9))", 0, id="removes it when it reads"),
        pytest.param("opened(0).read(9)\nos.rename(base + '_1', base)", 0, id="renames it"),
        pytest.param("opened(0).read(9)\nos.kill(os.getpid(), 9)", 137, id="is killed"),
        pytest.param(
            "subprocess.Popen(['sleep', '600'], stdin=opened(0), start_new_session=True)", 0, id="leaves a reader"
        ),
        pytest.param("raise SystemExit(3)", 3, id="fails"),
    ],
)
def test_whatever_a_script_does_with_its_fifos_the_job_ends(desk: Path, text: str, status: int) -> None:
    (desk / "data" / "b").write_bytes(bytes(10_000_000))

    result = run(desk, text)

    assert result.status == status, result.log
    assert "Traceback" not in result.log
    assert list((result.root / "input" / "data").glob("train_*")) == []


def test_a_stop_reaches_a_script_that_waits_for_data(desk: Path) -> None:
    script(desk, READ + "fifo = opened(0)\n" + trap("saved"))
    process = start(desk, *words_of_run(()))
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"

    process.terminate()
    result = finish(process, desk)

    assert result.status == 0, result.log
    assert (result.root / "model" / "saved").read_text() == str(int(signal.SIGTERM))


def test_a_reader_that_is_left_over_holds_nobody_up(desk: Path) -> None:
    """Whoever neither reads nor goes, such as a process that the job's end did not reach."""
    (desk / "data" / "b").write_bytes(bytes(10_000_000))
    script(desk, "")
    described = job(
        script=str(desk / "train.py"),
        source_dir=None,
        channels=[f"train={desk / 'data'}"],
        hyperparameters=[],
        output=str(desk / "out"),
        requirements=False,
        arguments=[],
        input_mode="Pipe",
    )
    data = desk / "out" / "input" / "data"

    with feeder.Feeder(described).feeding():
        reader = os.open(data / "train_0", os.O_RDONLY)
        wait_until((data / "train_1").exists, "the next FIFO")
    os.close(reader)

    assert list(data.iterdir()) == []


# Whoever asks it to end does not see that it did not finish.
HIDES = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"


@pytest.mark.parametrize("hosts", ["1", "2"])
@pytest.mark.parametrize(
    ("damage", "words", "said"),
    [
        ("os.remove('data/c/a')", [], "data/c/a': No such file or directory; leave the data as it is"),
        (
            "os.truncate('data/c/a', 60)",
            ["--compression", "Gzip"],
            "data/c/a' is no whole gzip stream: Compressed file ended",
        ),
        (
            "open('data/c/a', 'r+b').write(b'not')",
            ["--compression", "Gzip"],
            "data/c/a' is no whole gzip stream: Not a gzipped",
        ),
        ("os.truncate('data/c/a', 0); open('data/c/a', 'wb').write(gz)", ["--compression", "Gzip"], "CRC check failed"),
    ],
)
def test_data_that_fails_ends_the_job_and_no_script_takes_it_for_the_end(
    desk: Path, damage: str, words: list[str], said: str, hosts: str
) -> None:
    for path in ("a", "b", "c/a"):
        (desk / "data" / path).write_bytes(gzip.compress(random.Random(4).randbytes(1000)))
    damaged = "import gzip\ngz = bytearray(gzip.compress(b'x' * 99))\ngz[-8] ^= 1\n" + damage
    text = f"{HIDES}if os.environ['SM_CURRENT_HOST'] in ('algo-1', '127.0.0.1'):\n    exec({damaged!r})\n    read(0)\n"

    result = run(desk, text + "    print('the end')\ntime.sleep(600)", *words, "--hosts", hosts)

    assert (result.status, result.stdout) == (1, b""), result.log
    roots = [result.root] if hosts == "1" else [result.root / f"127.0.0.{number}" for number in (1, 2)]
    for root in roots:
        assert not (root / "output" / "success").exists()
        assert (root / "output" / "failure").read_text().startswith(f"job: channel 'train', epoch 0: '{desk}/data/c/a'")
    (line,) = (line for line in result.log.splitlines() if "epoch 0" in line)
    assert line.startswith(f"tf-toolkit: failure: {roots[0]}/output/failure: job: ")
    assert said in line
    assert "Traceback" not in result.log


def test_the_next_run_into_the_same_folder_begins_with_the_first_pass(desk: Path) -> None:
    state = desk / "out" / "pipe_state"
    for _ in range(2):
        assert passes(desk, count=1) == [WHOLE]
        assert not state.exists()
        script(state, "1", ".train-pipe_mode-state")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--train", "data", "--input-mode", "FastFile"], "invalid choice: 'FastFile'"),
        (["--train", "data", "--compression", "Gzip"], "give --input-mode Pipe with it"),
        (["--train", "data", "--input-mode", "File", "--shuffle-seed", "1"], "give --input-mode Pipe with it"),
        (["--input-mode", "Pipe"], "there is no channel to stream; give one with --train or --channel"),
        (["--train", "data", "--input-mode", "Pipe", "--compression", "Bzip2"], "invalid choice: 'Bzip2'"),
        (["--train", "data", "--input-mode", "Pipe", "--shuffle-seed", "x"], "--shuffle-seed: invalid int value: 'x'"),
        (["--train", "empty", "--input-mode", "Pipe"], "channel 'train': there is no file in '"),
        (["--train", "odd", "--input-mode", "Pipe"], "odd/broken' is neither a file nor a folder; take it out"),
        (["--train", "data", "--input-mode", "Pipe", "--compression", "Gzip"], "data/a' is no gzip stream; with"),
    ],
)
def test_a_mistake_is_one_line_with_a_remedy(desk: Path, words: list[str], said: str) -> None:
    script(desk, "")
    script(desk, "mine", "out/model/mine")
    script(desk, "", "out/.tf-toolkit-run")
    (desk / "empty" / "below").mkdir(parents=True)
    script(desk, "x", "odd/x")
    (desk / "odd" / "broken").symlink_to("nowhere")
    before = everything(desk)

    result = tf_toolkit(desk, "run", "train.py", "--output", "out", *words)

    assert result.status == 2
    assert said in one_line(result.log)
    assert everything(desk) == before


def test_explain_says_which_channels_are_fifos(desk: Path) -> None:
    script(desk, "")
    words = ("train.py", "--train", "data", "--output", "out")

    found = explained(desk, *words, "--input-mode", "Pipe", "--compression", "Gzip")
    shown = tf_toolkit(desk, "explain", *words, "--input-mode", "Pipe").stdout.decode()

    channel = f"{desk}/out/input/data/train"
    assert (found["channels"], found["pipe_mode"]) == ({"train": channel}, ["train"])
    variables = found["processes"][0]["variables"]
    assert variables["SM_CHANNEL_TRAIN"] == channel
    assert json.loads(variables["SM_INPUT_DATA_CONFIG"])["train"]["CompressionType"] == "Gzip"
    assert f"  train  FIFOs {channel}_0, {channel}_1, ...\n" in shown
    assert explained(desk, *words)["pipe_mode"] == []
    assert "give --input-mode Pipe with it" in tf_toolkit(desk, "explain", *words, "--shuffle-seed", "1").log
    assert "need SCRIPT" in one_line(tf_toolkit(desk, "explain", "--input-mode", "Pipe").log)
