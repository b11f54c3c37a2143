"""`tf-toolkit transform`: real runs over real models, to folders and to S3."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from test_terminal import Terminal

from command_line import everything, finish, one_line, script, start, tf_toolkit
from conftest import AWS_ENVIRON, PROGRAMS, Result, wait_until
from pipe import framed, record_io
from test_hardware import is_running

LINES = ("--split-type", "Line", "--assemble-with", "Line")
CSV = ("--content-type", "text/csv", "--accept", "text/csv", *LINES)
JSON_LINES = ("--content-type", "application/jsonlines", "--accept", "application/jsonlines", *LINES)

SELECTED = "$['id','SageMakerOutput']"


@pytest.fixture
def desk(tmp_path: Path, saved_models: Path) -> Path:
    """A person's folder: a model, and a file."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "half_plus_three").symlink_to(saved_models / "half_plus_three")
    script(tmp_path, "1.0\n2.0\n5.0\n", "data/a.csv")
    return tmp_path


@pytest.fixture
def handled(desk: Path) -> Path:
    """The same, with code that tells of its requests."""
    (desk / "model" / "code").mkdir()
    shutil.copy(PROGRAMS / "serving" / "transform" / "inference.py", desk / "model" / "code")
    return desk


def command(*more: str) -> tuple[str, ...]:
    given = {more[place] for place in range(0, len(more), 2)}
    places = {"--model-dir": "model", "--input": "data", "--output": "out"}
    return ("transform", *(word for item in places.items() if item[0] not in given for word in item), *more)


def transform(desk: Path, *more: str, **options: Any) -> Result:
    return tf_toolkit(desk, *command(*more), **options)


def outputs(desk: Path) -> dict[str, bytes]:
    """All that lies in the folder of outputs, but for what says how they were made."""
    folder = desk / "out"
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != ".tf-toolkit-transform"}


def test_each_file_of_a_folder_has_its_output_which_a_second_run_leaves(desk: Path) -> None:
    script(desk, "1.0\r\n\r\n \r\n3.0", "data/below/b.csv")
    script(desk, "", "data/empty.csv")
    script(desk, "7.0\n", "data/.hidden.csv")
    script(desk, "8.0\n", "elsewhere/c.csv")
    (desk / "data" / "link").symlink_to(desk / "elsewhere")
    (desk / "data" / "below" / "circle").symlink_to(desk / "data")

    first = transform(desk, *CSV)

    assert first.status == 0, first.log
    assert outputs(desk) == {
        ".hidden.csv.out": b"6.5\n",
        "a.csv.out": b"3.5\n4.0\n5.5\n",
        "below/b.csv.out": b"3.5\n4.5\n",
        "empty.csv.out": b"",
        "link/c.csv.out": b"7.0\n",
    }
    assert first.log == "tf-toolkit: 5 of 5 files transformed, 0 failed; outputs: out\n"
    assert first.stdout == b""
    before = everything(desk / "out")

    again = transform(desk, *CSV)

    assert (again.status, everything(desk / "out")) == (0, before)
    assert again.log.splitlines()[0] == (
        "tf-toolkit: 5 of 5 files have outputs, made with the same model and options, which stay"
    )

    other = transform(desk, *CSV, "--strategy", "SingleRecord")

    assert (other.status, everything(desk / "out")) == (2, before)
    assert "outputs are there that were made with another --strategy; remove the outputs" in one_line(other.log)

    script(desk, "9.0\n", "data/a.csv")
    os.utime(desk / "out" / "empty.csv.out", (0, 0))
    (desk / "out" / "link" / "c.csv.out").unlink()

    rest = transform(desk, *CSV)

    assert rest.status == 0, rest.log
    assert "2 of 5 files have outputs" in rest.log
    assert "3 of 3 files transformed" in rest.log
    assert outputs(desk)["a.csv.out"] == b"7.5\n"

    os.utime(desk / "model" / "half_plus_three" / "1" / "saved_model.pb")
    assert "made with another model;" in one_line(transform(desk, *CSV).log)


def test_outputs_of_another_input_are_not_taken_for_its_own(desk: Path) -> None:
    script(desk, "", "january/a.csv")
    script(desk, "1.0\n", "february/a.csv")
    (desk / "link").symlink_to(desk / "january")
    assert transform(desk, "--input", "january", *CSV).status == 0
    before = everything(desk / "out")

    others = [transform(desk, "--input", name, *CSV) for name in ("february", "february/a.csv")]
    same = [transform(desk, "--input", name, *CSV) for name in ("january/a.csv", "link")]
    accept = {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"}
    others.append(transform(desk, "--input", "january", *CSV, variables=accept))

    assert ([result.status for result in others], everything(desk / "out")) == ([2, 2, 2], before)
    assert [one_line(result.log).partition("another ")[2].partition(";")[0] for result in others] == [
        "--input",
        "--input",
        *accept,
    ]
    assert [result.status for result in same] == [0, 0]


@pytest.mark.parametrize(
    ("text", "more", "expected"),
    [
        pytest.param(
            'x,"a,b",1.0\r\n"y ""z""",,2.0\r\n',
            (*CSV, "--input-filter", "$[2:]", "--join-source", "Input", "--output-filter", "$[1,0,-1]"),
            '"a,b",x,3.5\n,"y ""z""",4.0\n',
            id="CSV",
        ),
        pytest.param(
            '{"id": "é", "x": [1.0]}\n\n{"x": [2.0], "id": 12345678901234567890}\n',
            (*JSON_LINES, "--input-filter", "$.x", "--join-source", "Input", "--output-filter", SELECTED),
            '{"id":"é","SageMakerOutput":[3.5]}\n{"id":12345678901234567890,"SageMakerOutput":[4.0]}\n',
            id="JSON lines",
        ),
    ],
)
def test_filters_and_joins(desk: Path, text: str, more: tuple[str, ...], expected: str) -> None:
    script(desk, text, "records")

    result = transform(desk, "--input", "records", *more)

    assert result.status == 0, result.log
    assert outputs(desk) == {"records.out": expected.encode()}


def test_a_file_that_fails_says_where_and_the_others_are_done(desk: Path) -> None:
    record = '{"id": 1, "x": [1.0]}\n'
    script(desk, f'{100 * record}\n{record}{{"x": ["abc"]}}\n{100 * record}', "data/bad.jsonl")
    script(desk, f'{record}{{"x": "{"9" * (1 << 20)}"}}\n', "data/long.jsonl")
    script(desk, f"{record}{{}}\n", "data/lacks.jsonl")
    script(desk, f"{record}}}\n", "data/no.jsonl")
    script(desk, record, "data/good.jsonl")
    (desk / "data" / "a.csv").unlink()
    words = (*JSON_LINES, "--input-filter", "$.x", "--join-source", "Input", "--max-payload", "1")
    (desk / "out").mkdir()

    result = transform(desk, *words)

    assert result.status == 1, result.log
    assert outputs(desk) == {"good.jsonl.out": b'{"id":1,"x":[1.0],"SageMakerOutput":[3.5]}\n'}
    # In which order they were found out about is nobody's business.
    bad, lacks, long, no, last = sorted(result.log.splitlines(), key=lambda line: ("error" not in line, line))
    assert bad.startswith("tf-toolkit: error: data/bad.jsonl: line 103: the server answered 400: Failed to process")
    assert "abc" in bad
    assert lacks == "tf-toolkit: error: data/lacks.jsonl: line 2: --input-filter $.x finds no 'x'"
    assert long == (
        "tf-toolkit: error: data/long.jsonl: line 2: larger than --max-payload, which is 1 MB; give a larger one"
    )
    assert no.startswith("tf-toolkit: error: data/no.jsonl: line 2: this is no JSON: Expecting value")
    assert last == "tf-toolkit: 1 of 5 files transformed, 4 failed; outputs: out"


def test_gzip_streams_are_unzipped(desk: Path) -> None:
    whole = gzip.compress(b"1.0\n") + gzip.compress(b"2.0\n")
    (desk / "data" / "a.csv").rename(desk / "data" / "plain.csv")
    for name, content in {"good": whole, "cut": whole[:-9], "empty": b""}.items():
        (desk / "data" / f"{name}.csv.gz").write_bytes(content)

    result = transform(desk, *CSV, "--compression", "Gzip")

    assert result.status == 1
    assert outputs(desk) == {"good.csv.gz.out": b"3.5\n4.0\n", "empty.csv.gz.out": b""}
    cut, plain, _ = sorted(result.log.splitlines(), key=lambda line: ("error" not in line, line))
    assert "data/cut.csv.gz: this is no whole gzip stream: Compressed file ended before" in cut
    assert "data/plain.csv: this is no gzip stream; with --compression Gzip all files are" in plain


RECORDS = (b"one", b"", b"three")
PARTS = record_io(1, b"abcd") + record_io(2, b"e") + record_io(3, b"fg")


@pytest.mark.parametrize(
    ("split_type", "strategy", "expected"),
    [
        # With nothing between them, records need their frames; alone they do not.
        ("TFRecord", "SingleRecord", list(RECORDS)),
        ("RecordIO", "MultiRecord", [b"".join(framed("RecordIO", record) for record in RECORDS) + PARTS]),
    ],
)
def test_what_is_sent_of_frames(handled: Path, split_type: str, strategy: str, expected: list[bytes]) -> None:
    data = b"".join(framed(split_type, record) for record in RECORDS)
    (handled / "frames").write_bytes(data + (PARTS if split_type == "RecordIO" else b""))
    words = ("--split-type", split_type, "--strategy", strategy, "--assemble-with", "Line")

    result = transform(handled, "--input", "frames", "--content-type", "test/body", *words)

    assert result.status == 0, result.log
    assert outputs(handled) == {"frames.out": b"".join(body.hex().encode() + b"\n" for body in expected)}


def test_the_server_is_told_what_the_platform_tells(handled: Path) -> None:
    given = ("--strategy", "SingleRecord", "--max-payload", "2", "--max-concurrent", "3", "--accept", "a/b")

    result = transform(handled, "--content-type", "test/variables", *given)

    assert result.status == 0, result.log
    assert json.loads(outputs(handled)["a.csv.out"]) == [
        {
            "BATCH": "true",
            "BATCH_STRATEGY": "SINGLE_RECORD",
            "MAX_PAYLOAD_IN_MB": "2",
            "MAX_CONCURRENT_TRANSFORMS": "3",
        },
        "a/b",
    ]


def test_what_is_left_over_of_another_job_has_no_effect(desk: Path) -> None:
    left_over = {
        "SAGEMAKER_BASE_DIR": "/none",
        "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "0",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "none",
        "SAGEMAKER_MULTI_MODEL": "true",
        "SAGEMAKER_SUBMIT_DIRECTORY": "s3://none/none.tar.gz",
    }

    result = transform(desk, *CSV, variables=left_over)

    assert (result.status, result.log.count("\n")) == (0, 1), result.log


def test_so_many_requests_are_made_at_once_over_all_files_and_their_order_is_kept(handled: Path) -> None:
    """Each waits until three others are there."""
    script(handled, "".join(f"{number}\n" for number in range(14)), "data/a.csv")
    script(handled, "14\n", "data/b.csv")
    script(handled, "15\n", "data/c.csv")
    words = ("--content-type", "test/together", *LINES, "--strategy", "SingleRecord", "--max-concurrent", "4")

    result = transform(handled, *words)

    assert result.status == 0, result.log
    written = outputs(handled)
    assert b"".join(written[f"{name}.csv.out"] for name in "abc").split() == [b"%d" % number for number in range(16)]


def test_memory_does_not_grow_with_files(handled: Path) -> None:
    with (handled / "data" / "a.csv").open("wb") as file:
        for _ in range(60):
            file.write(1000 * (999 * b"x" + b"\n"))
    words = ("--content-type", "test/peak", *LINES, "--max-payload", "1", "--max-concurrent", "2")

    result = transform(handled, *words)

    assert result.status == 0, result.log
    peaks = outputs(handled)["a.csv.out"].split()
    assert len(peaks) == 58
    # In KiB; the interpreter is most of it.
    assert int(peaks[-1]) < 48 << 10, peaks


def left(mark: Path) -> list[int]:
    """Processes that have this in their environment."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={mark}".encode() in (directory / "environ").read_bytes() and is_running(int(directory.name)):
                found.append(int(directory.name))
        except OSError:
            continue
    return found


SINGLE = ("--split-type", "Line", "--strategy", "SingleRecord", "--max-concurrent", "1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_nothing_behind(handled: Path, number: int) -> None:
    script(handled, "1\n", "data/b.csv")
    process = start(handled, *command("--content-type", "test/second-hangs", *SINGLE), variables={"MARK": str(handled)})
    assert process.stderr is not None
    # What the code prints comes through.
    assert process.stderr.readline() == b"hanging\n"

    other = transform(handled, "--content-type", "test/second-hangs", *SINGLE)
    assert "--output 'out' is in use by another transform; give another folder" in one_line(other.log)

    process.send_signal(number)
    result = finish(process, handled)

    assert (result.status, result.log) == (128 + number, "")
    assert outputs(handled) == {}
    wait_until(lambda: not left(handled), "no process is left")


def test_a_server_that_dies_is_told_of(handled: Path) -> None:
    script(handled, "", "data/0.csv")

    result = transform(handled, "--content-type", "test/second-kills", *SINGLE, variables={"MARK": str(handled)})

    assert result.status == 128 + signal.SIGKILL
    # What it told of before is no reason.
    assert result.log.splitlines() == [
        "tf-toolkit: error: nothing of importance",
        "tf-toolkit: error: the server was killed by SIGKILL, perhaps for want of memory",
    ]
    # What was whole before stays.
    assert outputs(handled) == {"0.csv.out": b""}
    assert left(handled) == []


def test_a_server_that_cannot_start_gives_its_reason(desk: Path) -> None:
    (desk / "empty").mkdir()

    result = transform(desk, "--model-dir", "empty")

    assert result.status == 66
    assert "error: the server ended with status 66: no SavedModel bundles found!" in result.log
    assert "Traceback" not in result.log
    assert outputs(desk) == {}


def test_a_terminal_shows_how_far_it_is(desk: Path) -> None:
    terminal = Terminal()

    process = start(
        desk,
        *command(*CSV, "--max-concurrent", "1"),
        variables={"TERM": "xterm", "LANG": "C.UTF-8"},
        stderr=terminal.device,
    )
    status = process.wait(600)
    written = terminal.end().decode()

    assert status == 0, written
    assert "starting the server" in written
    assert "1 of 1 files" in written
    # The bar is gone at the end.
    assert written.rstrip().endswith("tf-toolkit: 1 of 1 files transformed, 0 failed; outputs: out")


def test_objects_of_s3(desk: Path, s3: Any, s3_url: str) -> None:
    bucket = "transform"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    for key, body in {"in/": b"", "in/a b.csv": b"1.0\n", "in/c/d.csv": b"2.0\n", "in-other/e.csv": b"3.0\n"}.items():
        s3.put_object(Bucket=bucket, Key=key, Body=body)
    variables = {**AWS_ENVIRON, "S3_ENDPOINT_URL": s3_url}
    places = ("--input", f"s3://{bucket}/in", "--output", f"s3://{bucket}/results/")

    result = transform(desk, *places, *CSV, variables=variables)

    assert result.status == 0, result.log
    found = s3.list_objects_v2(Bucket=bucket, Prefix="results/")["Contents"]
    # All keys that begin so are inputs, as on the platform.
    assert {each["Key"]: s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in found} == {
        "results/a b.csv.out": b"3.5\n",
        "results/c/d.csv.out": b"4.0\n",
        "results/in-other/e.csv.out": b"4.5\n",
    }

    again = transform(desk, *places, *CSV, variables=variables)
    other = transform(desk, *places, variables=variables)
    among = transform(desk, *places[:3], f"s3://{bucket}/in-results", variables=variables)
    missing = transform(desk, "--input", "s3://not-there/in", *CSV, variables=variables)

    assert (again.status, again.log.splitlines()[0].partition(",")[0]) == (0, "tf-toolkit: 3 of 3 files have outputs")
    assert "e.csv.out: outputs are there that were made with another --content-type, --split" in one_line(other.log)
    assert "'s3://transform/in-results' lies in --input 's3://transform/in'" in one_line(among.log)
    assert "s3://not-there/in cannot be listed: S3 answers NoSuchBucket" in one_line(missing.log)
    assert [other.status, among.status, missing.status] == [2, 2, 66]

    # The same place, spelled otherwise.
    spelled = transform(desk, *places[:3], f"S3://{bucket}//results", *CSV, variables=variables)
    assert (spelled.status, spelled.log.splitlines()[0]) == (0, again.log.splitlines()[0])


@pytest.mark.parametrize(
    ("prefix", "key", "said"),
    [
        ("/in", "in//tmp/a.csv", "an object '/tmp/a.csv', which can be no file's name; give an --output in S3"),
        ("/in/", "in/a/../../../b.csv", "--input has an object 'a/../../../b.csv', which can be no"),
        ("", "/a.csv", "/a.csv: a key that begins with a slash cannot be fetched; rename the object"),
    ],
)
def test_keys_that_would_lead_elsewhere(desk: Path, s3: Any, s3_url: str, prefix: str, key: str, said: str) -> None:
    bucket = f"hostile{len(key)}"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    s3.put_object(Bucket=bucket, Key=key, Body=b"1.0\n")
    variables = {**AWS_ENVIRON, "S3_ENDPOINT_URL": s3_url}

    result = transform(desk, "--input", f"s3://{bucket}{prefix}", *CSV, variables=variables)

    assert result.status == 2
    assert said in one_line(result.log)
    assert outputs(desk) == {}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--input", "nothing"), "--input 'nothing': no such file or folder; give one of this machine, or s3://BUCKET"),
        (("--input", "empty"), "--input 'empty': there is no file; give one, or a folder that has some"),
        (("--output", "data/out"), "--output 'data/out' lies in --input 'data', of which all is transformed"),
        (("--output", "other/x.out"), "other/x.out' cannot be made: File exists; give another --output"),
        (("--output", "other"), "--output 'other': outputs are there, and it is not known how they were made"),
        (("--model-dir", "nothing"), "--model-dir 'nothing': no such directory"),
        (("--max-payload", "x"), "argument --max-payload: invalid int value: 'x'"),
        (("--split-type", "Lines"), "argument --split-type: invalid choice: 'Lines'"),
        (("--", "more"), "`transform` takes no arguments behind --"),
    ],
)
def test_a_mistake_is_one_line_with_a_remedy(desk: Path, more: tuple[str, ...], said: str) -> None:
    (desk / "empty").mkdir()
    script(desk, "", "other/x.out")

    result = transform(desk, *more)

    assert result.status == 2
    assert said in one_line(result.log)
