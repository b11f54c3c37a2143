"""Intermediate output: real processes that upload to a local S3 endpoint."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config

from conftest import AWS_ENVIRON, DEADLINE, Job, wait_until
from tf_toolkit import sync
from tf_toolkit.config import read_config
from tf_toolkit.contract import Paths
from tf_toolkit.errors import JobDescriptionError, ResultError, ToolkitError
from tf_toolkit.process import ProcessSpec

# Ten times what it takes by events. A look at every file, five seconds after the last, finds one in that time.
EVENTS = 10
EVENTS_DEADLINE = 30.0
PREFIX = "some/prefix/job-1/output/intermediate"


class Uploader:
    """A sync process over a directory of its own, and the bucket of its own that it uploads to."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.outside = directory.parent.parent
        # Unlike S3, the endpoint takes what does not have the checksum that was announced, and serves it again.
        self.s3 = boto3.client(
            "s3",
            endpoint_url=url,
            region_name=AWS_ENVIRON["AWS_REGION"],
            aws_access_key_id=AWS_ENVIRON["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=AWS_ENVIRON["AWS_SECRET_ACCESS_KEY"],
            config=Config(response_checksum_validation="when_required"),
        )
        self.url = url
        self.bucket = f"bucket-{uuid.uuid4()}"
        self.environ = {"PATH": os.environ["PATH"], "S3_ENDPOINT_URL": url, **AWS_ENVIRON}
        self.command = [sys.executable, "-m", "tf_toolkit.sync", str(directory), f"s3://{self.bucket}/{PREFIX}"]
        self.process: subprocess.Popen[str] | None = None
        directory.mkdir(parents=True)
        self.s3.create_bucket(Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})

    def start(self, **options: Any) -> Uploader:
        """Start it as the supervisor does, with TERM blocked."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self.log_file = self.outside / "log"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environ, stderr=log, cwd="/", start_new_session=True, text=True, **options
            )
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self

    def watching(self) -> Uploader:
        """Start it, and wait until it has had its first look, so that it learns of all else by events."""
        self.write("ready", b"")
        self.start()
        self.arrived("ready")
        return self

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def write(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def content(self, name: str) -> bytes | None:
        try:
            body: bytes = self.s3.get_object(Bucket=self.bucket, Key=f"{PREFIX}/{name}")["Body"].read()
        except self.s3.exceptions.NoSuchKey:
            return None
        return body

    def arrived(self, name: str, content: bytes = b"", deadline: float = DEADLINE) -> None:
        wait_until(lambda: self.content(name) == content, f"{name} is in S3: {self.log}", deadline)

    def all_arrive_by_events(self, make: Callable[[int], str]) -> None:
        """Make files, each when the one before is in S3."""
        end = time.monotonic() + EVENTS_DEADLINE
        for number in range(EVENTS):
            name = make(number)
            wait_until(functools.partial(self.content_is_there, name), f"{name} in S3", end - time.monotonic())

    def content_is_there(self, name: str) -> bool:
        return self.content(name) is not None

    def names(self) -> set[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return {item["Key"][len(PREFIX) + 1 :] for page in pages for item in page.get("Contents", ())}

    def versions(self, name: str) -> list[bytes]:
        """Every content that the object ever had, oldest first."""
        found = self.s3.list_object_versions(Bucket=self.bucket, Prefix=f"{PREFIX}/{name}").get("Versions", ())
        get = self.s3.get_object
        return [
            get(Bucket=self.bucket, Key=item["Key"], VersionId=item["VersionId"])["Body"].read()
            for item in reversed(found)
        ]

    def keep_versions(self) -> None:
        self.s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})

    def finish(self, deadline: float = 60.0) -> int:
        """End it as the supervisor does when the script has ended; its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(deadline)


@pytest.fixture
def uploader(tmp_path: Path, s3_url: str) -> Iterator[Uploader]:
    made = Uploader(tmp_path / "output" / "intermediate", s3_url)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


class Gate:
    """A way to the S3 endpoint that can be shut: then a request gets no further than its first 256 KiB."""

    def __init__(self, port: int, target: str) -> None:
        address = urlsplit(target)
        self.target = (address.hostname or "", address.port or 0)
        self.open = threading.Event()
        self.reached = threading.Event()
        self.put: list[str] = []
        self.server = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.server.accept()
                upstream = socket.create_connection(self.target)
                threading.Thread(target=self.pump, args=(client, upstream, True), daemon=True).start()
                threading.Thread(target=self.pump, args=(upstream, client, False), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, gated: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while chunk := source.recv(64 * 1024):
                passed += len(chunk)
                if gated and chunk.startswith(b"PUT "):
                    self.put.append(chunk.split()[1].decode().rpartition("/")[2])
                if gated and passed > 256 * 1024 and not self.open.is_set():
                    self.reached.set()
                    self.open.wait(60)
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def gate(uploader: Uploader) -> Iterator[Gate]:
    made = Gate(0, uploader.url)
    uploader.environ["S3_ENDPOINT_URL"] = made.url
    yield made
    made.open.set()
    made.server.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


# What a running job does


def test_written_and_closed(uploader: Uploader) -> None:
    uploader.watching()
    uploader.all_arrive_by_events(lambda number: uploader.write(f"file{number}", b"content").name)
    assert uploader.content("file0") == b"content"


def test_empty(uploader: Uploader) -> None:
    uploader.watching()
    uploader.write("empty", b"")
    uploader.arrived("empty")


def test_put_in_place_by_rename(uploader: Uploader) -> None:
    """How TensorFlow writes checkpoints, and any program that is careful."""
    uploader.watching()

    def make(number: int) -> str:
        return uploader.write("temporary", b"new").rename(uploader.directory / str(number)).name

    uploader.all_arrive_by_events(make)
    assert uploader.content("0") == b"new"


def test_moved_in(uploader: Uploader) -> None:
    uploader.watching()

    def make(number: int) -> str:
        (uploader.outside / "made").write_bytes(b"from outside")
        return (uploader.outside / "made").rename(uploader.directory / str(number)).name

    uploader.all_arrive_by_events(make)
    assert uploader.content("0") == b"from outside"


def test_replaced_by_rename(uploader: Uploader) -> None:
    uploader.watching()
    for content in (b"first", b"other"):
        uploader.write("a.tmp", content).replace(uploader.directory / "a")
        uploader.arrived("a", content)


def test_directory_moved_in(uploader: Uploader) -> None:
    uploader.watching()

    def make(number: int) -> str:
        (uploader.outside / "made" / "deep").mkdir(parents=True)
        (uploader.outside / "made" / "deep" / "file").write_bytes(b"content")
        return (uploader.outside / "made").rename(uploader.directory / str(number)).name + "/deep/file"

    uploader.all_arrive_by_events(make)
    assert uploader.content("0/deep/file") == b"content"
    uploader.write("0/deep/later", b"later")
    uploader.arrived("0/deep/later", b"later")


def test_directory_renamed(uploader: Uploader) -> None:
    """How Orbax puts a checkpoint in place."""
    uploader.watching()

    def make(number: int) -> str:
        uploader.write("step.tmp/part/0", b"0")
        return (uploader.directory / "step.tmp").rename(uploader.directory / str(number)).name + "/part/0"

    uploader.all_arrive_by_events(make)
    uploader.write("0/part/1", b"1")
    uploader.arrived("0/part/1", b"1")


def test_deep_trees_made_faster_than_they_can_be_watched(uploader: Uploader) -> None:
    uploader.watching()
    names = [
        f"tree{tree}/" + "/".join("abcdefghijklmnop"[:depth]) + "/file" for tree in range(20) for depth in (1, 8, 16)
    ]
    for name in names:
        uploader.write(name, name.encode())
    wait_until(lambda: uploader.names() >= set(names), f"all files are in S3: {uploader.log}")
    assert uploader.content(names[-1]) == names[-1].encode()


def test_hard_link(uploader: Uploader) -> None:
    uploader.watching()
    os.link(uploader.write("a", b"content"), uploader.directory / "b")
    uploader.arrived("b", b"content")


def test_link_within_the_directory(uploader: Uploader) -> None:
    uploader.watching()
    uploader.write("step/1", b"one")
    (uploader.directory / "latest").symlink_to("step/1")
    uploader.arrived("latest", b"one")


def test_overwritten_in_place(uploader: Uploader) -> None:
    uploader.watching()
    for content in (b"one", b"two", b"thr", b"four"):
        uploader.write("a", content)
        uploader.arrived("a", content)


def test_overwritten_with_the_same_size_and_time(uploader: Uploader) -> None:
    uploader.watching()
    path = uploader.write("a", b"one")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    uploader.arrived("a", b"one")
    with path.open("wb") as file:
        file.write(b"two")
        file.flush()
        os.utime(path, ns=times)
    uploader.arrived("a", b"two")


@pytest.mark.parametrize(
    "name", ["with space", "tab\tand \x7f", "quote'\"$(x)`;&", "Grüße/模型", "-o", "a+b%20c?#", "..a"]
)
def test_names(uploader: Uploader, name: str) -> None:
    uploader.write(name, b"content")
    uploader.start()
    assert uploader.finish() == 0, uploader.log
    assert uploader.content(name) == b"content"


def test_five_hundred_files(uploader: Uploader) -> None:
    uploader.watching()
    for number in range(500):
        uploader.write(f"{number % 7}/{number}", str(number).encode())
    assert uploader.finish() == 0, uploader.log
    expected = {f"{number % 7}/{number}" for number in range(500)}
    assert uploader.names() == {"ready", *expected}
    assert uploader.content("2/499") == b"499"
    assert "501 files in 501 uploads" in uploader.log


def test_order(uploader: Uploader, gate: Gate) -> None:
    """A reader of S3 who sees a file finds all that was closed before it."""
    gate.open.set()
    uploader.watching()
    names = [f"{'zyx'[number % 3]}{number}" for number in range(100)]
    for name in names:
        uploader.write(name, b"")
    uploader.arrived(names[-1])
    assert gate.put == ["ready", *names]


def test_tensorflow_checkpoint(uploader: Uploader) -> None:
    uploader.watching()
    code = "import sys, tensorflow as tf; tf.train.Checkpoint(v=tf.Variable([1.0, 2.0])).write(sys.argv[1])"
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", code, str(uploader.directory / "step-1" / "ckpt")], check=True, env=environ)
    for name in ("ckpt.index", "ckpt.data-00000-of-00001"):
        uploader.arrived(f"step-1/{name}", (uploader.directory / "step-1" / name).read_bytes())


# Files that change while they are uploaded


def test_overwritten_during_its_upload(uploader: Uploader, gate: Gate) -> None:
    uploader.keep_versions()
    uploader.write("big", b"a" * 4_000_000)
    uploader.start()
    assert gate.reached.wait(60), uploader.log
    uploader.write("big", b"b" * 4_000_000)
    gate.open.set()
    uploader.arrived("big", b"b" * 4_000_000)
    assert uploader.finish() == 0, uploader.log
    assert uploader.versions("big") == [b"a" * 4_000_000, b"b" * 4_000_000]


def test_no_room_for_a_copy(uploader: Uploader, gate: Gate) -> None:
    """Then the file itself is uploaded, and again if it has changed meanwhile."""
    uploader.write("big", b"a" * 4_000_000)
    uploader.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)))
    assert gate.reached.wait(60), uploader.log
    uploader.write("big", b"b" * 4_000_000)
    gate.open.set()
    # A file that is cut short while it is read costs boto3 the minute that it waits for S3's answer.
    uploader.arrived("big", b"b" * 4_000_000, deadline=300)
    assert uploader.finish() == 0, uploader.log


def test_deleted_before_its_upload(uploader: Uploader, gate: Gate) -> None:
    uploader.write("big", b"a" * 4_000_000)
    uploader.start()
    assert gate.reached.wait(60), uploader.log
    uploader.write("gone", b"").unlink()
    (uploader.directory / "big").unlink()
    gate.open.set()
    assert uploader.finish() == 0, uploader.log
    assert uploader.names() == {"big"}


def test_copies_leave_nothing_behind(uploader: Uploader, gate: Gate) -> None:
    uploader.write("big", b"a" * 4_000_000)
    uploader.start()
    assert gate.reached.wait(60), uploader.log
    assert uploader.process is not None
    uploader.process.kill()
    uploader.process.wait()
    assert [path.name for path in uploader.directory.parent.rglob("*")] == ["intermediate", "big"]


def test_large_file_goes_up_in_parts(uploader: Uploader) -> None:
    content = os.urandom(20_000_000)
    uploader.write("large", content)
    uploader.start()
    assert uploader.finish() == 0, uploader.log
    assert uploader.content("large") == content


# What is not uploaded


def test_open_for_writing(uploader: Uploader) -> None:
    """Uploaded when it is closed, or at the end; until then others overtake it."""
    uploader.watching()
    (uploader.directory / "new").mkdir()
    with (uploader.directory / "new" / "open").open("wb") as file:
        file.write(b"first")
        file.flush()
        uploader.write("new/closed", b"closed")
        uploader.arrived("new/closed", b"closed")
        assert uploader.content("new/open") is None
        file.write(b" and last")
    uploader.arrived("new/open", b"first and last")
    with (uploader.directory / "events").open("wb") as file:
        file.write(b"never closed")
        file.flush()
        assert uploader.finish() == 0, uploader.log
    assert uploader.content("events") == b"never closed"


def test_not_files(uploader: Uploader) -> None:
    (uploader.outside / "secret").write_bytes(b"secret")
    (uploader.outside / "folder").mkdir()
    (uploader.outside / "folder" / "file").write_bytes(b"secret")
    uploader.watching()
    os.mkfifo(uploader.directory / "fifo")
    (uploader.directory / "out").symlink_to(uploader.outside / "secret")
    (uploader.directory / "out-folder").symlink_to(uploader.outside / "folder")
    (uploader.directory / "dangling").symlink_to("nothing")
    (uploader.directory / "loop").symlink_to(".")
    (uploader.directory / "itself").symlink_to("itself")
    with socket.socket(socket.AF_UNIX) as made:
        # A path relative to /proc, for a socket's own may be only 108 bytes long.
        directory = os.open(uploader.directory, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{directory}/socket")
        os.close(directory)
    uploader.write("last", b"")
    uploader.arrived("last")
    assert uploader.finish() == 0, uploader.log
    assert uploader.names() == {"ready", "last"}
    assert uploader.log.count("out leads out of the directory: not uploaded") == 1
    assert "not uploaded yet" not in uploader.log


def test_name_that_is_not_utf8(uploader: Uploader) -> None:
    uploader.watching()
    name = os.fsencode(uploader.directory) + b"/caf\xe9"
    Path(os.fsdecode(name)).write_bytes(b"content")
    uploader.write("other", b"content")
    uploader.arrived("other", b"content")
    assert uploader.finish() == 1
    assert uploader.names() == {"ready", "other"}
    assert [line for line in uploader.log.splitlines() if "ERROR" in line and "caf" in line and "UTF-8" in line]


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "en_US.ISO-8859-1"])
def test_locale_does_not_matter(uploader: Uploader, locale: str) -> None:
    uploader.environ |= {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    uploader.write("Grüße/模型", b"content")
    uploader.start()
    assert uploader.finish() == 0, uploader.log
    assert uploader.content("Grüße/模型") == b"content"


# The end


def test_term_right_after_the_last_write(uploader: Uploader) -> None:
    uploader.watching()
    uploader.write("last", b"content")
    assert uploader.finish() == 0, uploader.log
    assert uploader.content("last") == b"content"


def test_term_before_it_listens(uploader: Uploader) -> None:
    uploader.write("a", b"content")
    uploader.start()
    assert uploader.finish() == 0, uploader.log
    assert uploader.content("a") == b"content"
    assert "1 files in 1 uploads, 7 bytes, at s3://" in uploader.log


def test_other_signals_and_a_second_term_change_nothing(uploader: Uploader, gate: Gate) -> None:
    gate.open.set()
    uploader.watching()
    gate.open.clear()
    assert uploader.process is not None
    for number in (signal.SIGINT, signal.SIGHUP):
        uploader.process.send_signal(number)
    uploader.write("big", b"a" * 4_000_000)
    assert gate.reached.wait(60), uploader.log
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        uploader.process.send_signal(number)
    uploader.write("last", b"last")
    gate.open.set()
    assert uploader.finish() == 0, uploader.log
    assert (uploader.content("big"), uploader.content("last")) == (b"a" * 4_000_000, b"last")


def test_ends_with_its_parent(uploader: Uploader) -> None:
    uploader.write("a", b"content")
    parent = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); sys.stdin.read()"
    uploader.command = [sys.executable, "-c", parent, *uploader.command]
    uploader.start(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert uploader.process is not None and uploader.process.stdin is not None and uploader.process.stdout is not None
    pid = int(uploader.process.stdout.readline())
    uploader.arrived("a", b"content")
    uploader.process.stdin.close()
    uploader.process.wait(60)
    uploader.process.stdout.close()

    def ended() -> bool:
        with contextlib.suppress(FileNotFoundError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return True

    wait_until(ended, "the process has ended with its parent")
    assert "1 files in 1 uploads" in uploader.log


# What goes wrong


def test_endpoint_down_at_first(uploader: Uploader) -> None:
    port = free_port()
    uploader.environ["S3_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    for name in ("a", "b"):
        uploader.write(name, b"content")
    uploader.start()
    wait_until(lambda: "a is not uploaded yet: " in uploader.log, "the failure is told")
    gate = Gate(port, uploader.url)
    gate.open.set()
    uploader.arrived("a", b"content")
    assert uploader.finish() == 0, uploader.log
    assert uploader.names() == {"a", "b"}
    gate.server.close()


def test_endpoint_down_until_after_the_end(uploader: Uploader) -> None:
    port = free_port()
    uploader.environ["S3_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    uploader.write("a", b"content")
    uploader.start()
    assert uploader.process is not None
    uploader.process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        uploader.process.wait(2)
    gate = Gate(port, uploader.url)
    gate.open.set()
    assert uploader.finish() == 0, uploader.log
    assert uploader.names() == {"a"}
    gate.server.close()


def test_bucket_that_does_not_exist(uploader: Uploader) -> None:
    uploader.command[-1] = f"s3://missing-{uuid.uuid4()}/prefix"
    for number in range(60):
        uploader.write(f"{number:02}", b"")
    uploader.start()
    assert uploader.finish() == 1
    errors = [line for line in uploader.log.splitlines() if "ERROR" in line]
    assert len(errors) == 51
    assert "00 was not uploaded: " in errors[0] and "NoSuchBucket" in errors[0]
    assert "10 more files" in errors[-1]
    assert "Traceback" not in uploader.log


def without_roots_right_to_read_all() -> None:
    """CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH leave the bounding set: Linux manual, capabilities(7)."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


def test_unreadable(uploader: Uploader) -> None:
    uploader.write("private", b"content").chmod(0)
    uploader.write("folder/file", b"content")
    (uploader.directory / "folder").chmod(0)
    uploader.write("other", b"content")
    uploader.start(preexec_fn=without_roots_right_to_read_all)
    assert uploader.finish() == 1
    (uploader.directory / "folder").chmod(0o700)
    assert "private was not uploaded: Permission denied" in uploader.log
    assert "folder was not uploaded: the directory cannot be read: Permission denied" in uploader.log
    assert uploader.content("other") == b"content"


@pytest.mark.parametrize(
    ("variables", "says"),
    [({"S3_ENDPOINT_URL": "nonsense"}, "nonsense"), ({"AWS_PROFILE": "nobody"}, "nobody")],
)
def test_no_client(uploader: Uploader, variables: Mapping[str, str], says: str) -> None:
    uploader.environ |= variables
    uploader.start()
    assert uploader.finish() == 1
    assert "intermediate output is not uploaded: " in uploader.log and says in uploader.log
    assert "Traceback" not in uploader.log


def test_without_the_extra(uploader: Uploader) -> None:
    """Without site-packages there is no boto3."""
    uploader.environ["PYTHONPATH"] = str(Path(sync.__file__).parents[2])
    uploader.command.insert(1, "-S")
    uploader.start()
    assert uploader.finish() == 1
    assert "needs boto3, which the image lacks: pip install 'tf-toolkit[s3]'" in uploader.log
    assert "Traceback" not in uploader.log


# The launcher's side


def spec_of(job: Job, output: object, **environ: str) -> ProcessSpec | None:
    job.hyperparameters(sagemaker_s3_output=output)
    return sync.companion(read_config(Paths(job.root), environ), Paths(job.root), environ)


def test_not_asked_for(job: Job) -> None:
    job.hyperparameters(epochs="1")
    assert sync.companion(read_config(Paths(job.root), {}), Paths(job.root), {}) is None
    assert not (job.root / "output").exists()


def test_the_platform_uploads(job: Job) -> None:
    (job.root / "output" / "intermediate").mkdir(parents=True)
    assert spec_of(job, "s3://bucket/prefix") is None


@pytest.mark.parametrize("output", ["file:///tmp/somewhere", "FILE://x"])
def test_local_address(job: Job, output: str) -> None:
    assert spec_of(job, output) is None
    assert (job.root / "output" / "intermediate").is_dir()


@pytest.mark.parametrize(
    ("output", "url"),
    [
        ("s3://bucket/some/prefix", "s3://bucket/some/prefix/job-1/output/intermediate"),
        ("s3://bucket/prefix/", "s3://bucket/prefix/job-1/output/intermediate"),
        ("s3://bucket", "s3://bucket/job-1/output/intermediate"),
        ("S3://bucket/", "s3://bucket/job-1/output/intermediate"),
    ],
)
def test_s3_address(job: Job, output: str, url: str) -> None:
    spec = spec_of(job, output, TRAINING_JOB_NAME="job-1", AWS_REGION="eu-north-1", SM_HPS="x" * 1_000_000, HOME="/h")
    assert spec is not None
    assert spec.argv == (sys.executable, "-m", "tf_toolkit.sync", str(job.root / "output" / "intermediate"), url)
    assert dict(spec.env) == {
        "TRAINING_JOB_NAME": "job-1",
        "AWS_REGION": "eu-north-1",
        "HOME": "/h",
        "SM_LOG_LEVEL": "20",
    }
    assert spec.companion
    assert (job.root / "output" / "intermediate").is_dir()


def test_no_job_name(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tf_toolkit"):
        spec = spec_of(job, "s3://bucket/prefix")
    assert spec is not None
    assert spec.argv[-1] == "s3://bucket/prefix/output/intermediate"
    assert "TRAINING_JOB_NAME is not set" in caplog.text


@pytest.mark.parametrize(
    "output", ["", "bucket/prefix", "s3://", "s3:///prefix", "gs://bucket", 5, True, ["s3://b"], {}]
)
def test_address_that_is_none(job: Job, output: object) -> None:
    with pytest.raises(
        JobDescriptionError, match=r"hyperparameters.json: key 'sagemaker_s3_output': found .*expected 's3:"
    ):
        spec_of(job, output)
    assert not (job.root / "output").exists()


def test_credentials_in_the_address_are_masked(job: Job) -> None:
    with pytest.raises(JobDescriptionError) as caught:
        spec_of(job, "https://user:hunter2@host/path")
    assert "hunter2" not in str(caught.value)


def test_directory_cannot_be_made(job: Job) -> None:
    (job.root / "output").write_text("a file")
    with pytest.raises(ResultError, match="output/intermediate cannot be made: "):
        spec_of(job, "s3://bucket/prefix")


def test_image_lacks_the_extra(job: Job) -> None:
    """The job ends before its script starts."""
    job.hyperparameters(sagemaker_s3_output="s3://bucket/prefix")
    code = (
        "import sys; from pathlib import Path; from tf_toolkit import config, contract, sync\n"
        "paths = contract.Paths(Path(sys.argv[1]))\n"
        "sync.companion(config.read_config(paths, {}), paths, {})\n"
    )
    environ = {"PYTHONPATH": str(Path(sync.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(job.root)], env=environ, stderr=subprocess.PIPE, text=True, check=False
    )
    assert f"{ToolkitError.__name__}: hyperparameter sagemaker_s3_output needs boto3" in done.stderr
    assert not (job.root / "output").exists()


# Under the supervisor

JOB = """
import sys
from pathlib import Path
from tf_toolkit import config, contract, supervisor, sync
from tf_toolkit.process import ProcessSpec
import os
paths = contract.Paths.of(os.environ)
uploader = sync.companion(config.read_config(paths, os.environ), paths, os.environ)
script = ProcessSpec("script", tuple(sys.argv[1:]), dict(os.environ), str(paths.intermediate))
print(*(end.status for end in supervisor.run([script, uploader], 30)))
"""


@pytest.mark.parametrize(
    ("script", "statuses"),
    [
        # Ended long before Python has started the uploader.
        (["cp", "/proc/self/cmdline", "last"], "0 0"),
        ([sys.executable, "-c", "import time; time.sleep(2); open('last', 'w').write('content')"], "0 0"),
        ([sys.executable, "-c", "open('last', 'w').write('content'); raise SystemExit(3)"], "3 0"),
    ],
)
def test_the_last_file_is_there_when_the_run_is_over(
    job: Job, uploader: Uploader, script: list[str], statuses: str
) -> None:
    job.hyperparameters(sagemaker_s3_output=f"s3://{uploader.bucket}/some/prefix")
    environ = {**job.environ, **AWS_ENVIRON, "S3_ENDPOINT_URL": uploader.url, "TRAINING_JOB_NAME": "job-1"}
    done = subprocess.run(
        [sys.executable, "-c", JOB, *script], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split("\n")[0] == statuses, done.stderr
    assert uploader.content("last") == (job.root / "output" / "intermediate" / "last").read_bytes()
    assert "intermediate output: 1 files in 1 uploads" in done.stderr
