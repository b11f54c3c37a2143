"""Stage 3, source half: where the code comes from, which file of it runs, and what that file then sees."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from conftest import AWS_ENVIRON, DEADLINE, Job
from tf_toolkit.config import read_config
from tf_toolkit.contract import TENSORFLOW_TRAINING_MODULE, Paths
from tf_toolkit.entry_point import command_for, find_entry_point, is_package
from tf_toolkit.errors import ExecuteUserScriptError, JobDescriptionError, SourceError
from tf_toolkit.process import Command
from tf_toolkit.user_code import install_user_code, locate, look

HOSTILE = [
    "--name",
    "a b",
    "it's",
    'say "hi"',
    "two\nlines",
    "$(touch pwned)",
    "`id`",
    "",
    "é",
    "*",
    "-n",
    "\\",
    "a;b|c>d",
]
SHOW = "import json, os, sys\nprint(json.dumps({'argv': sys.argv, 'cwd': os.getcwd(), 'name': __name__}))\n"


def install(job: Job, **environ: str) -> Command:
    paths, variables = Paths(job.root), {**job.environ, **environ}
    return install_user_code(read_config(paths, variables), paths, variables, 5.0)


def ran(command: Command, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environ = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [*command.argv, *arguments]
    return subprocess.run(argv, cwd=command.directory, env=environ, capture_output=True, timeout=DEADLINE, check=False)


def shown(command: Command, *arguments: str) -> dict[str, Any]:
    """What SHOW saw."""
    ended = ran(command, *arguments)
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(ended.stdout))


def names(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*")}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def tarball(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("__", "/").replace("_py", ".py"))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))
    return buffer.getvalue()


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions count, also where the tests run as root."""
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(uid)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, s3_url: str) -> str:
    for name, value in AWS_ENVIRON.items():
        monkeypatch.setenv(name, value)
    return s3_url


# Where the code comes from


def test_code_in_the_code_directory_runs_there(job: Job) -> None:
    job.code("train.py", SHOW)
    user_code = install(job)
    assert shown(user_code, *HOSTILE) == {
        "argv": ["train.py", *HOSTILE],
        "cwd": str(job.root / "code"),
        "name": "__main__",
    }
    assert user_code.argv == (sys.executable, "--", "train.py")
    assert names(job.root / "code") == {"train.py"}


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/.", "file://{}", "FILE://{}/"])
def test_the_code_directory_by_another_name_is_not_copied(
    job: Job, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    job.code("train.py", SHOW)
    (job.root / "link").symlink_to("code")
    for directory in (job.root / "code", job.root / "link"):
        assert install(job, SAGEMAKER_SUBMIT_DIRECTORY=form.format(directory)).directory == str(job.root / "code")
    assert warnings(caplog) == []


@pytest.mark.parametrize("code", ["missing", "empty", "link"])
@pytest.mark.parametrize("form", ["directory", "tar", "file URL", "quoted file URL", "file", "s3", "S3", "s3 file"])
def test_code_is_brought_to_an_empty_code_directory(
    job: Job, aws: str, s3: Any, code: str, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = job.root.parent / "my code"
    source.mkdir()
    (source / "train.py").write_text(SHOW)
    (job.root.parent / "code.bin").write_bytes(tarball(train_py=SHOW))
    with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket="code", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    s3.put_object(Bucket="code", Key="job/source/sourcedir.tar.gz", Body=tarball(train_py=SHOW))
    s3.put_object(Bucket="code", Key="job/train.py", Body=SHOW.encode())
    submitted = {
        "directory": str(source),
        "tar": str(job.root.parent / "code.bin"),
        "file URL": f"file://{source}",
        "quoted file URL": source.as_uri(),
        "file": str(source / "train.py"),
        "s3": "s3://code/job/source/sourcedir.tar.gz",
        "S3": "S3://code/job/source/sourcedir.tar.gz",
        "s3 file": "s3://code/job/train.py",
    }[form]
    if code != "empty":
        (job.root / "code").rmdir()
    if code == "link":
        (job.root / "elsewhere").mkdir()
        (job.root / "code").symlink_to("elsewhere")
    user_code = install(job, SAGEMAKER_SUBMIT_DIRECTORY=submitted, S3_ENDPOINT_URL=aws)
    assert user_code.directory == str(job.root / "code")
    assert names(job.root / "code") == {"train.py"}
    assert shown(user_code)["argv"] == ["train.py"]
    assert warnings(caplog) == []


def test_a_code_directory_that_holds_files_is_left_alone(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    old = job.code("train.py", "raise SystemExit('old')")
    archive = job.root / "sourcedir.tar.gz"
    archive.write_bytes(tarball(train_py=SHOW, src__model_py=""))
    user_code = install(job, SAGEMAKER_SUBMIT_DIRECTORY=str(archive))
    assert user_code.directory != str(job.root / "code")
    assert names(Path(user_code.directory)) == {"train.py", "src", "src/model.py"}
    assert shown(user_code)["cwd"] == user_code.directory
    assert old.read_text() == "raise SystemExit('old')"
    (warning,) = warnings(caplog)
    for place in (job.root / "code", archive, user_code.directory):
        assert str(place) in warning
    shutil.rmtree(user_code.directory)


def test_what_a_killed_launcher_left_counts_for_nothing(job: Job) -> None:
    (job.root / "code" / ".tf-toolkit-abc").mkdir()
    (job.root / "source.tar").write_bytes(tarball(train_py=SHOW))
    assert install(job, SAGEMAKER_SUBMIT_DIRECTORY=str(job.root / "source.tar")).directory == str(job.root / "code")


def test_a_source_directory_that_the_tree_is_in(job: Job) -> None:
    (job.root.parent / "train.py").write_text(SHOW)
    assert install(job, SAGEMAKER_SUBMIT_DIRECTORY=str(job.root.parent)).directory == str(job.root / "code")
    assert names(job.root / "code") == {"train.py"}


def test_a_path_of_the_host_means_the_mounted_code(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    job.code("train.py", SHOW)
    assert install(job, SAGEMAKER_SUBMIT_DIRECTORY="file:///home/me/project").directory == str(job.root / "code")
    (warning,) = warnings(caplog)
    assert warning.startswith("file:///home/me/project is not in this container; ")


@pytest.mark.parametrize("submitted", ["/no/such/place", "file:///no/such/place", "no-such-place"])
def test_a_place_that_is_not_there(job: Job, submitted: str) -> None:
    with pytest.raises(SourceError, match=f"^{submitted}: No such file or directory; set .*submit_directory"):
        install(job, SAGEMAKER_SUBMIT_DIRECTORY=submitted)


def test_a_path_without_scheme_must_be_there_though_there_is_code(job: Job) -> None:
    job.code("train.py", SHOW)
    with pytest.raises(SourceError, match=r"^/no/such/place: "):
        install(job, SAGEMAKER_SUBMIT_DIRECTORY="/no/such/place")


def test_an_address_of_another_kind(job: Job) -> None:
    with pytest.raises(SourceError) as caught:
        install(job, SAGEMAKER_SUBMIT_DIRECTORY="https://me:hunter2@example.com/code.tar.gz")
    assert str(caught.value).startswith("https://******@example.com/code.tar.gz is no address of code; set ")


def test_a_fifo_that_nobody_writes(job: Job) -> None:
    os.mkfifo(job.root / "fifo")
    with pytest.raises(SourceError, match="fifo is neither a file nor a directory"):
        install(job, SAGEMAKER_SUBMIT_DIRECTORY=str(job.root / "fifo"))


@pytest.mark.parametrize("occupied", [False, True])
def test_a_damaged_archive_leaves_nothing(job: Job, occupied: bool, caplog: pytest.LogCaptureFixture) -> None:
    if occupied:
        job.code("train.py", SHOW)
    before = names(job.root / "code")
    archive = job.root / "sourcedir.tar.gz"
    archive.write_bytes(tarball(train_py=SHOW, big_py=os.urandom(50_000).hex())[:-1000])
    with pytest.raises(SourceError, match=r"sourcedir.tar.gz is damaged or cut short \(.*; pack or copy it again$"):
        install(job, SAGEMAKER_SUBMIT_DIRECTORY=str(archive))
    assert names(job.root / "code") == before
    for path in re.findall(r"/\S*tf-toolkit-code-\S+", " ".join(warnings(caplog))):
        assert not Path(path).exists()


@pytest.mark.parametrize("form", ["tar", "directory", "file"])
def test_a_full_disk_leaves_nothing(job: Job, form: str) -> None:
    source = job.root / "source"
    source.mkdir()
    (source / "a.py").write_text(SHOW)
    (source / "big").write_bytes(os.urandom(300_000))
    archive = job.root / "code.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(source, ".")
    submitted = {"tar": archive, "directory": source, "file": source / "big"}[form]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(SourceError, match=f"^{submitted} cannot be made ready to run: .*File too large"):
            install(job, SAGEMAKER_SUBMIT_DIRECTORY=str(submitted))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(job.root / "code") == set()


def test_a_code_directory_that_is_none(job: Job) -> None:
    (job.root / "source.tar").write_bytes(tarball(train_py=SHOW))
    (job.root / "code").rmdir()
    (job.root / "code").write_text("")
    for submitted in (job.root / "source.tar", job.root / "code"):
        with pytest.raises(JobDescriptionError, match="code: Not a directory; expected a directory of code"):
            install(job, SAGEMAKER_SUBMIT_DIRECTORY=str(submitted))
    (job.root / "code").unlink()
    (job.root / "code").symlink_to("nowhere")
    for submitted in (job.root / "source.tar", job.root / "code"):
        with pytest.raises(JobDescriptionError, match="code is a link to nothing; expected a directory of code"):
            install(job, SAGEMAKER_SUBMIT_DIRECTORY=str(submitted))


def test_what_may_not_be_read_or_written() -> None:
    with unprivileged(), contextlib.ExitStack() as cleaning:
        root = Path(tempfile.mkdtemp())
        cleaning.callback(shutil.rmtree, root)
        job = Job(root / "ml")
        (root / "source").mkdir()
        secret = root / "source" / "train.py"
        secret.write_text(SHOW)
        secret.chmod(0)
        for submitted in (root / "source", secret):
            with pytest.raises(SourceError, match=f"{secret}: Permission denied"):
                install(job, SAGEMAKER_SUBMIT_DIRECTORY=str(submitted))
        assert names(job.root / "code") == set()
        secret.chmod(0o600)
        (job.root / "code").chmod(0o500)
        with pytest.raises(SourceError, match="Permission denied"):
            install(job, SAGEMAKER_SUBMIT_DIRECTORY=str(root / "source"))
        (job.root / "code").chmod(0o300)
        with pytest.raises(JobDescriptionError, match="code: Permission denied; expected a directory of code"):
            install(job)
        (job.root / "code").chmod(0o600)
        with pytest.raises(JobDescriptionError, match=r"code/x.py cannot be read: Permission denied"):
            install(job, SAGEMAKER_PROGRAM="x.py")
        (job.root / "code").chmod(0o700)


# S3


@pytest.mark.parametrize(
    ("submitted", "found"),
    [
        ("s3://no-such-bucket/sourcedir.tar.gz", r"there is no such bucket or object \(404\); check the address"),
        ("s3://only-bucket", "names a bucket and no object in it"),
        ("s3://Bad_Bucket!/x", "Invalid bucket name"),
    ],
)
def test_an_address_without_an_object(job: Job, aws: str, submitted: str, found: str) -> None:
    with pytest.raises(SourceError, match=f"^{re.escape(submitted)} .*{found}"):
        install(job, SAGEMAKER_SUBMIT_DIRECTORY=submitted, S3_ENDPOINT_URL=aws)
    assert names(job.root / "code") == set()


@contextlib.contextmanager
def s3_that(status: int, length: int = 0, sent: bytes = b"") -> Iterator[str]:
    """An endpoint that answers all requests alike; with what it ``sent`` the connection ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(sent)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_access_denied(job: Job, aws: str) -> None:
    with s3_that(403) as url, pytest.raises(SourceError, match=r"access is denied \(403\); .*s3:GetObject"):
        install(job, SAGEMAKER_SUBMIT_DIRECTORY="s3://bucket/sourcedir.tar.gz", S3_ENDPOINT_URL=url)


def test_a_download_that_breaks_off(job: Job, aws: str) -> None:
    submitted = "s3://bucket/sourcedir.tar.gz"
    with (
        s3_that(200, length=100, sent=b"short") as url,
        pytest.raises(SourceError, match=f"^{submitted} cannot be fetch"),
    ):
        install(job, SAGEMAKER_SUBMIT_DIRECTORY=submitted, S3_ENDPOINT_URL=url)
    assert names(job.root / "code") == set()


def downloading(directory: Path, url: str, **environ: str) -> subprocess.Popen[bytes]:
    """A process that is interruptible and downloads; boto3 keeps credentials that it once found, so it has its own."""
    program = (
        "import os; from pathlib import Path; from tf_toolkit import s3, signals\n"
        "with signals.interruptible(): s3.download('s3://bucket/x.tar.gz', Path('x'), 'us-west-2', os.environ)\n"
    )
    variables = {**environ, "S3_ENDPOINT_URL": url, "HOME": str(directory), "AWS_EC2_METADATA_DISABLED": "true"}
    return subprocess.Popen([sys.executable, "-c", program], env=variables, cwd=directory, stderr=subprocess.PIPE)


def test_no_credentials(tmp_path: Path, s3_url: str) -> None:
    _, stderr = downloading(tmp_path, s3_url).communicate(timeout=DEADLINE)
    assert b"SourceError: s3://bucket/x.tar.gz cannot be fetched: no AWS credentials; give the job a role" in stderr


def test_a_stop_ends_a_download_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(DEADLINE)
        process = downloading(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", **AWS_ENVIRON)
        connection, _ = silent.accept()
        with connection:
            process.terminate()
            _, stderr = process.communicate(timeout=DEADLINE)
    assert stderr.endswith(b"tf_toolkit.errors.Stopped: 15\n")
    assert names(tmp_path) == set()


def test_an_endpoint_where_nobody_listens(job: Job, aws: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(
        SourceError, match=r"^s3://b/x.tar.gz cannot be fetched: Could not connect .*; check the address"
    ):
        install(job, SAGEMAKER_SUBMIT_DIRECTORY="s3://b/x.tar.gz", S3_ENDPOINT_URL=url)


def test_an_endpoint_that_is_none(job: Job, aws: str) -> None:
    with pytest.raises(SourceError) as caught:
        install(job, SAGEMAKER_SUBMIT_DIRECTORY="s3://b/x.tar.gz", S3_ENDPOINT_URL="http://me:hunter2@no such host")
    assert str(caught.value).startswith("s3://b/x.tar.gz cannot be fetched: s3 cannot be used: ")
    assert "hunter2" not in str(caught.value)


# Which file runs


def entry_point(job: Job, named: str | None = None) -> str:
    return find_entry_point(named, job.root / "code")


def test_train_py_is_the_default(job: Job) -> None:
    job.code("train.py", "")
    job.code("other.py", "")
    assert entry_point(job) == "train.py"


@pytest.mark.parametrize("name", ["main.py", "run.sh"])
def test_the_only_script_is_the_next(job: Job, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for other in (name, "setup.py", "__init__.py", "._main.py", "data.csv", "src/model.py"):
        job.code(other, "")
    assert entry_point(job) == name
    assert [record.getMessage() for record in caplog.records if name in record.getMessage()]


def test_several_scripts_are_listed(job: Job) -> None:
    for number in range(13):
        job.code(f"s{number:02}.py", "")
    with pytest.raises(JobDescriptionError) as caught:
        entry_point(job)
    assert "'s00.py', 's01.py'" in str(caught.value)
    assert str(caught.value).endswith("'s09.py' and 3 more")
    assert "hyperparameter sagemaker_program or the variable SAGEMAKER_PROGRAM" in str(caught.value)


def test_no_script_at_all(job: Job) -> None:
    with pytest.raises(JobDescriptionError, match=r"no script in .*/code; it is empty or not there; mount the code"):
        entry_point(job)
    job.code("src/main.py", "")
    with pytest.raises(
        JobDescriptionError, match=r"no script in .*/code; it holds 'src/main.py'; set .*sagemaker_program"
    ):
        entry_point(job)
    shutil.rmtree(job.root / "code")
    with pytest.raises(JobDescriptionError, match="it is empty or not there"):
        entry_point(job, "train.py")


@pytest.mark.parametrize(
    ("named", "meant"), [("trian.py", "train.py"), ("model.py", "src/model.py"), ("scr/model.py", "src/model.py")]
)
def test_a_name_that_is_not_there_brings_up_what_is_like_it(job: Job, named: str, meant: str) -> None:
    job.code("train.py", "")
    job.code("src/model.py", "")
    with pytest.raises(
        JobDescriptionError, match=f"^entry point '{named}' is no file in .*/code; did you mean '{meant}'"
    ):
        entry_point(job, named)


def test_an_entry_point_must_be_a_file_of_the_code(job: Job) -> None:
    job.code("src/model.py", "")
    with pytest.raises(JobDescriptionError, match=r"^entry point 'src' is a directory in .*; name a file in it$"):
        entry_point(job, "src")
    os.mkfifo(job.root / "code" / "fifo.py")
    with pytest.raises(JobDescriptionError, match=r"'fifo.py' is no file"):
        entry_point(job, "fifo.py")
    (job.root / "outside.py").write_text(SHOW)
    (job.root / "code" / "out.py").symlink_to("../outside.py")
    with pytest.raises(JobDescriptionError, match=r"'out.py' is a link that leads out of .*/code, to .*/ml/outside.py"):
        entry_point(job, "out.py")
    (job.root / "code" / "in.py").symlink_to("src/model.py")
    assert entry_point(job, "in.py") == "in.py"


def test_a_code_directory_that_is_a_link(job: Job) -> None:
    job.code("train.py", SHOW)
    (job.root / "code").rename(job.root / "real")
    (job.root / "code").symlink_to("real")
    assert shown(install(job))["argv"] == ["train.py"]


# How it runs


@pytest.mark.parametrize(
    ("files", "named", "command"),
    [
        (["train.py"], "train.py", ("--", "train.py")),
        (["src/train.py"], "src/train.py", ("--", "src/train.py")),
        (["setup.py", "train.py"], "train.py", ("-m", "train")),
        (["setup.py", "src/train.py"], "src/train.py", ("--", "src/train.py")),
        (["setup.py", "src/__init__.py", "src/train.py"], "src/train.py", ("-m", "src.train")),
        (["setup.py", "a/b/__init__.py", "a/b/train.py"], "a/b/train.py", ("--", "a/b/train.py")),
        (["setup.py", "a/__init__.py", "a/b/__init__.py", "a/b/train.py"], "a/b/train.py", ("-m", "a.b.train")),
        (["setup.py", "my-train.v2.py"], "my-train.v2.py", ("--", "my-train.v2.py")),
        (["setup.py", "my-src/__init__.py", "my-src/train.py"], "my-src/train.py", ("--", "my-src/train.py")),
    ],
)
def test_a_python_file_runs_as_script_or_module(
    job: Job, files: list[str], named: str, command: tuple[str, ...]
) -> None:
    for file in files:
        job.code(file, SHOW if file == named else "")
    directory = job.root / "code"
    config = read_config(Paths(job.root), {"SAGEMAKER_PROGRAM": named})
    user_code = look(config, directory)
    assert user_code == Command((sys.executable, *command), str(directory), named)
    assert is_package(named, directory) == ("setup.py" in files)
    seen = shown(user_code, *HOSTILE)
    assert seen["name"] == "__main__"
    assert seen["argv"][1:] == HOSTILE


@pytest.mark.parametrize(
    ("pyproject", "package"),
    [
        ("[project]\nname = 'x'\n", True),
        ("# [tool]\n\t[ build-system ] # comment\nrequires = []\n", True),
        ("[tool.ruff]\nline-length = 100\n# [project]\n[tool.project]\n", False),
        ("", False),
    ],
)
def test_a_pyproject_makes_a_package_if_it_says_how_to_build_it(job: Job, pyproject: str, package: bool) -> None:
    job.code("train.py", SHOW)
    job.code("pyproject.toml", pyproject)
    user_code = look(read_config(Paths(job.root), {}), job.root / "code")
    assert is_package("train.py", job.root / "code") == package
    assert user_code.argv[1:] == (("-m", "train") if package else ("--", "train.py"))


def test_a_shell_script_of_a_package_is_a_shell_script(job: Job) -> None:
    job.code("setup.py", "")
    job.code("run.sh", "")
    user_code = look(read_config(Paths(job.root), {"SAGEMAKER_PROGRAM": "run.sh"}), job.root / "code")
    assert user_code == Command(("/bin/sh", "./run.sh"), str(job.root / "code"), "run.sh")
    assert not is_package("run.sh", job.root / "code")


PRINT_PY = "import sys\nsys.stdout.write(''.join(a + '\\0' for a in sys.argv[1:]))\n"
PRINT_SH = "printf '%s\\0' \"$@\"\n"
SCRIPTS = [
    PRINT_SH,
    "#!/bin/sh\n" + PRINT_SH,
    "#! \t/bin/sh  -e \t\n" + PRINT_SH,
    "#!/usr/bin/env python3\n" + PRINT_PY,
    "#!/usr/bin/env -S python3 -u\n" + PRINT_PY,
]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("mode", [0o755, 0o644])
@pytest.mark.parametrize("name", ["run.sh", "src/start", "-odd name.sh"])
def test_a_command_gets_its_arguments_as_they_are(job: Job, script: str, mode: int, name: str) -> None:
    path = job.code(name, script)
    path.chmod(mode)
    user_code = Command(command_for(name, job.root / "code"), str(job.root / "code"), name)
    ended = ran(user_code, *HOSTILE)
    assert ended.stdout.decode().split("\0") == [*HOSTILE, ""]
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert path.stat().st_mode & 0o777 == mode
    assert not (job.root / "code" / "pwned").exists()


def test_the_kernel_and_we_split_the_first_line_alike(job: Job) -> None:
    """An interpreter that shows its own arguments, started by the kernel and by us."""
    interpreter = job.code("interpreter", f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:])\n")
    interpreter.chmod(0o755)
    for line in (f"#!{interpreter}", f"#! {interpreter} one  two ", f"#!\t{interpreter}\t-e\t", "#!interpreter x\0y"):
        path = job.code("run.sh", f"{line}\n")
        outputs = []
        for mode in (0o755, 0o644):
            path.chmod(mode)
            command = command_for("run.sh", job.root / "code")
            outputs.append(ran(Command(command, str(job.root / "code"), "run.sh"), "a b").stdout)
        assert outputs[0] == outputs[1] != b""


def test_a_program(job: Job) -> None:
    program = job.root / "code" / "train"
    shutil.copy(str(shutil.which("printf")), program)
    user_code = Command(command_for("train", job.root / "code"), str(job.root / "code"), "train")
    assert user_code.argv == ("./train",)
    assert ran(user_code, "%s\\0", *HOSTILE).stdout.decode().split("\0") == [*HOSTILE, ""]
    program.chmod(0o644)
    with pytest.raises(ExecuteUserScriptError, match="train is a program without permission to execute it; chmod"):
        command_for("train", job.root / "code")


@pytest.mark.parametrize("mode", [0o755, 0o644])
@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"#!/bin/sh\r\n", r"run.sh has Windows line ends \(CRLF\).*dos2unix"),
        (b"#!/bin/bash -e\r\n", r"run.sh has Windows line ends \(CRLF\).*dos2unix"),
        (b"#!/no/such/python\n", "its interpreter /no/such/python is no program in this image"),
        (b"#!/etc -x\n", "its interpreter /etc is no program"),
        (b"#!/etc/passwd\n", "its interpreter /etc/passwd is no program"),
        (b"#!\n", "its #! line names no interpreter"),
        (b"#! \t", "its #! line names no interpreter"),
    ],
)
def test_a_first_line_that_cannot_work(job: Job, line: bytes, found: str, mode: int) -> None:
    path = job.root / "code" / "run.sh"
    path.write_bytes(line + b"echo\n" * line.endswith(b"\n"))
    path.chmod(mode)
    with pytest.raises(ExecuteUserScriptError, match=found):
        command_for("run.sh", job.root / "code")


# A module named by the image


def test_a_training_module_is_called_with_the_arguments(job: Job) -> None:
    job.code("mine/__init__.py", "")
    job.code("mine/training.py", SHOW + "class Main:\n    @staticmethod\n    def run():\n        print(sys.argv)\n")
    user_code = install(job, SAGEMAKER_TRAINING_MODULE="mine.training:Main.run")
    ended = ran(user_code, *HOSTILE)
    imported, called = ended.stdout.decode().splitlines()
    assert json.loads(imported)["name"] == "mine.training"
    assert called == str(["mine.training", *HOSTILE])


def test_a_training_module_that_is_not_there_is_the_modules_own_traceback(job: Job) -> None:
    ended = ran(install(job, SAGEMAKER_TRAINING_MODULE="no_such_module:main"))
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"Traceback (most recent call last):\n")
    assert ended.stderr.endswith(b"ModuleNotFoundError: No module named 'no_such_module'\n")


def test_a_training_module_needs_no_code_but_gets_what_was_submitted(job: Job) -> None:
    (job.root / "code").rmdir()
    user_code = install(job, SAGEMAKER_TRAINING_MODULE="platform:node")
    assert Path(user_code.directory).is_dir()
    assert ran(user_code).returncode == 0
    (job.root / "source.tar").write_bytes(tarball(mine_py="def main():\n    print('called')\n"))
    environ = {"SAGEMAKER_TRAINING_MODULE": "mine:main", "SAGEMAKER_SUBMIT_DIRECTORY": str(job.root / "source.tar")}
    assert ran(install(job, **environ)).stdout == b"called\n"


def test_the_tensorflow_toolkits_module_means_this_one(job: Job) -> None:
    job.code("train.py", SHOW)
    user_code = install(job, SAGEMAKER_TRAINING_MODULE=TENSORFLOW_TRAINING_MODULE)
    assert user_code.argv == (sys.executable, "--", "train.py")


# Only looking


def test_looking_fetches_nothing(job: Job) -> None:
    paths = Paths(job.root)
    source = job.root / "source"
    source.mkdir()
    (job.root / "source.tar").write_bytes(tarball(train_py=SHOW))
    for submitted, place in [
        (str(paths.code), paths.code),
        (str(source), source),
        (str(job.root / "source.tar"), None),
        ("s3://no-such-bucket/sourcedir.tar.gz", None),
    ]:
        config = read_config(paths, {"SAGEMAKER_SUBMIT_DIRECTORY": submitted})
        assert locate(config, paths) == place
    assert names(paths.code) == set()
