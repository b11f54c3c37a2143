"""The user's code beside a model: where it is looked for, and what is installed for it."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import DEADLINE, PROGRAMS, s3_server, wait_until
from packages import Index, Python, wheel
from tf_toolkit.errors import SourceError
from tf_toolkit.serving import model_code

INSTALL = PROGRAMS / "serving" / "handlers" / "install.py"
PROGRAM = "def handler(data, context):\n    return data.read(), context.request_content_type\n"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    folder = tmp_path_factory.mktemp("index")
    wheel(folder, "foo", "1.2")
    with contextlib.closing(Index(folder)) as served:
        yield served


def install(python: Python, *files: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Write requirements.txt files, which ask for foo, below the code of a model, and install as the server does."""
    for file in files:
        path = python.root / "model" / "code" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("foo\n" if path.name == "requirements.txt" else PROGRAM)
    command = [str(python.executable), str(INSTALL), str(python.root / "model")]
    environ = {**python.environ, **variables}
    return subprocess.run(command, env=environ, cwd=python.root, capture_output=True, text=True, timeout=2 * DEADLINE)


@pytest.fixture
def python(tmp_path: Path, index: Index) -> Python:
    return Python(tmp_path, "uv", index)


@pytest.mark.parametrize("file", ["requirements.txt", "lib/requirements.txt"])
def test_requirements_are_installed(python: Python, file: str) -> None:
    """The SDK copies the file to code/lib, where it is named as a dependency."""
    done = install(python, "inference.py", file)
    assert done.stdout == "imported foo 1.2\n", done.stderr
    assert f"installing {python.root / 'model' / 'code' / file}\n" in done.stderr


def test_requirements_of_lib_count(python: Python) -> None:
    (python.root / "model" / "code" / "lib").mkdir(parents=True)
    done = install(python, "inference.py", "requirements.txt")
    assert done.stdout == "no foo\n"
    assert "requirements.txt is ignored, for there is" in done.stderr
    done = install(python, "lib/requirements.txt", TF_TOOLKIT_REQUIREMENTS="skip")
    assert done.stdout == "no foo\n"


def test_requirements_without_a_program(python: Python) -> None:
    done = install(python, "requirements.txt")
    assert done.stdout == "no code\n"
    assert "code/requirements.txt is not installed: there is no inference.py beside it\n" in done.stderr


def test_requirements_that_cannot_be_had(python: Python) -> None:
    (python.root / "model" / "code").mkdir(parents=True)
    done = install(python, "inference.py", "requirements.txt", PIP_INDEX_URL=f"{python.index.url}/nowhere")
    assert done.returncode == 69
    assert done.stdout.startswith('requirements.txt line 1 ("foo"): ')


def test_a_stop_while_packages_are_installed(python: Python, tmp_path: Path) -> None:
    """The server's own handler hears of it."""
    write(tmp_path / "model" / "code" / "inference.py")
    write(tmp_path / "model" / "code" / "requirements.txt", "foo\n")
    asked = len(python.index.asked)
    python.index.go.clear()
    command = [str(python.executable), str(INSTALL), str(tmp_path / "model")]
    process = subprocess.Popen(command, env=python.environ, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(python.index.asked) > asked, "the index is asked")
        process.terminate()
        assert process.wait(DEADLINE) == 7
    finally:
        python.index.go.set()
        process.kill()
        process.wait(DEADLINE)


# Where the program is looked for


Log = Callable[[], "list[str]"]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Log:
    monkeypatch.setattr(logging.getLogger("tf_toolkit"), "propagate", True)
    caplog.set_level(logging.INFO, "tf_toolkit")

    def warnings() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        caplog.clear()
        return found

    return warnings


def write(path: Path, text: str = PROGRAM) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def found(folder: Path, **environ: str) -> Path | None:
    code = model_code.find(folder, environ)
    return None if code is None else code.program


def test_code_beside_the_model(tmp_path: Path, log: Log) -> None:
    program = write(tmp_path / "code" / "inference.py")
    assert found(tmp_path) == program
    assert found(tmp_path, SAGEMAKER_PROGRAM="inference.py", SAGEMAKER_SUBMIT_DIRECTORY=str(program.parent)) == program
    assert found(tmp_path, SAGEMAKER_SUBMIT_DIRECTORY=f"file://{program.parent}") == program
    assert found(tmp_path, SAGEMAKER_PROGRAM="", SAGEMAKER_SUBMIT_DIRECTORY="") == program
    assert log() == []


def test_program_of_another_name(tmp_path: Path, log: Log) -> None:
    write(tmp_path / "code" / "inference.py")
    mine = write(tmp_path / "code" / "mine.py")
    deeper = write(tmp_path / "code" / "src" / "mine.py")
    assert found(tmp_path, SAGEMAKER_PROGRAM="mine.py") == mine
    assert found(tmp_path, SAGEMAKER_PROGRAM="src/mine.py") == deeper
    assert log() == []
    code = model_code.find(tmp_path, {"SAGEMAKER_PROGRAM": "src/mine.py"})
    assert code is not None
    assert code.import_paths == (deeper.parent, mine.parent)


def test_settings_left_over_from_training(tmp_path: Path, log: Log) -> None:
    """An image that trains has them too, and its script must not run."""
    train = write(tmp_path / "baked" / "train.py", "raise SystemExit('training')\n")
    settings = {"SAGEMAKER_PROGRAM": "train.py", "SAGEMAKER_SUBMIT_DIRECTORY": str(train.parent)}
    assert found(tmp_path / "model", **settings) is None
    assert log() == [f"SAGEMAKER_PROGRAM is train.py, but {train} has no handler"]
    inference = write(tmp_path / "model" / "code" / "inference.py")
    assert found(tmp_path / "model", **settings) == inference
    assert log() == ["SAGEMAKER_PROGRAM is train.py, which has no handler or is not there"]
    assert found(tmp_path / "model", SAGEMAKER_PROGRAM="train.sh") == inference
    assert found(tmp_path / "model", SAGEMAKER_SUBMIT_DIRECTORY="/nowhere") == inference
    assert "SAGEMAKER_SUBMIT_DIRECTORY is /nowhere, which is not there" in log()
    assert found(tmp_path / "other", SAGEMAKER_PROGRAM="train.py") is None
    assert log() == []


def test_code_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "model" / "code" / "inference.py")
    elsewhere = write(tmp_path / "elsewhere" / "inference.py")
    assert found(tmp_path / "model", SAGEMAKER_SUBMIT_DIRECTORY=str(elsewhere.parent)) == elsewhere


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "sourcedir.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(write(tmp_path / "packed" / "mine.py"), "mine.py")
        tar.add(write(tmp_path / "packed" / "helper.py"), "helper.py")
    return path


def test_code_in_an_archive(tmp_path: Path, archive: Path) -> None:
    program = found(tmp_path, SAGEMAKER_PROGRAM="mine.py", SAGEMAKER_SUBMIT_DIRECTORY=str(archive))
    assert program is not None
    assert sorted(path.name for path in program.parent.iterdir()) == ["helper.py", "mine.py"]


class Bucket:
    """A local S3 endpoint, and the variables that lead there."""

    def __init__(self, url: str) -> None:
        import boto3

        self.variables = {"S3_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
        self._client = boto3.client("s3", endpoint_url=url)
        self._client.create_bucket(Bucket="bucket")

    def put(self, path: Path, key: str) -> None:
        self._client.upload_file(str(path), "bucket", key)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    credentials = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    with s3_server("127.0.0.1") as url:
        yield Bucket(url)


def test_code_in_s3(tmp_path: Path, archive: Path, bucket: Bucket) -> None:
    """It is fetched only where it is needed: the SDK puts the code beside the model, too."""
    bucket.put(archive, "code/sourcedir.tar.gz")
    settings = {**bucket.variables, "SAGEMAKER_PROGRAM": "mine.py"}
    program = found(tmp_path, **settings, SAGEMAKER_SUBMIT_DIRECTORY="s3://bucket/code/sourcedir.tar.gz")
    assert program is not None and program.name == "mine.py"
    with pytest.raises(SourceError, match="there is no such bucket or object"):
        found(tmp_path, **settings, SAGEMAKER_SUBMIT_DIRECTORY="s3://bucket/other")
    beside = write(tmp_path / "code" / "mine.py")
    assert found(tmp_path, **settings, SAGEMAKER_SUBMIT_DIRECTORY="s3://bucket/other") == beside


def test_common_code_in_s3(tmp_path: Path, bucket: Bucket) -> None:
    bucket.put(write(tmp_path / "inference.py"), "of/all/code/inference.py")
    bucket.put(write(tmp_path / "helper.py"), "of/all/code/lib/helper.py")
    bucket.put(write(tmp_path / "other.py"), "of/all/codes.py")
    name = "SAGEMAKER_MULTI_MODEL_UNIVERSAL"
    code = model_code.find_common(
        tmp_path / "ml" / "model", {**bucket.variables, f"{name}_BUCKET": "bucket", f"{name}_PREFIX": "of/all/code/"}
    )
    assert code is not None
    files = sorted(path.relative_to(code.directory).as_posix() for path in code.directory.rglob("*.py"))
    assert files == ["inference.py", "lib/helper.py"]
    with pytest.raises(SourceError, match="s3://bucket/none/ holds nothing; correct SAGEMAKER_MULTI_MODEL_UNIVERSAL"):
        model_code.find_common(
            tmp_path / "model", {**bucket.variables, f"{name}_BUCKET": "bucket", f"{name}_PREFIX": "none"}
        )
    with pytest.raises(SourceError, match=r"s3://none/none/ cannot be listed: .*NoSuchBucket"):
        model_code.find_common(
            tmp_path / "model", {**bucket.variables, f"{name}_BUCKET": "none", f"{name}_PREFIX": "none"}
        )


@pytest.mark.parametrize(
    "place", ["inference.py", "export/1/code/inference.py", "code/lib/inference.py", "code/code/inference.py"]
)
def test_a_program_in_the_wrong_place_is_named(tmp_path: Path, log: Log, place: str) -> None:
    program = write(tmp_path / place)
    assert found(tmp_path) is None
    assert log() == [f"{program} is not used: it belongs to {tmp_path / 'code' / 'inference.py'}"]


def test_a_program_of_the_wrong_name_is_named(tmp_path: Path, log: Log, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "code" / "train.py", "# no handler here\n")
    program = write(tmp_path / "code" / "predict.py", "def input_handler(data, context): ...\n")
    assert found(tmp_path) is None
    assert f"no handlers: there is no inference.py in {tmp_path / 'code'}" in caplog.text
    assert log() == [f"{program} is not used: rename it to inference.py, or set SAGEMAKER_PROGRAM=predict.py"]
    assert found(tmp_path, SAGEMAKER_PROGRAM="infer.py") is None
    assert log()[0] == f"SAGEMAKER_PROGRAM is infer.py, but there is none in {tmp_path / 'code'}"


def test_without_code_there_is_nothing_to_warn_of(tmp_path: Path, log: Log) -> None:
    write(tmp_path / "1" / "saved_model.pb")
    assert found(tmp_path) is None
    assert log() == []


# Servers of many models


def test_common_code_is_looked_for_in_two_places(tmp_path: Path, log: Log) -> None:
    assert model_code.find_common(tmp_path / "model", {}) is None
    second = write(tmp_path / "models" / "code" / "inference.py")
    code = model_code.find_common(tmp_path / "model", {})
    assert code is not None and code.program == second
    first = write(tmp_path / "code" / "inference.py")
    code = model_code.find_common(tmp_path / "model", {})
    assert code is not None and code.program == first
    assert log() == []


def test_what_one_model_needs_is_not_installed_for_all(tmp_path: Path, log: Log) -> None:
    write(tmp_path / "code" / "inference.py")
    file = write(tmp_path / "code" / "requirements.txt", "foo\n")
    assert model_code.find_of_model(tmp_path, {}) is not None
    (warning,) = log()
    assert warning.startswith(f"{file} is not installed: ")
