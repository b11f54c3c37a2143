"""Installs with the real pip and the real uv, from a real index, into throwaway environments."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import wait_until
from packages import Index, Python, wheel, write_package
from tf_toolkit.errors import InstallRequirementsError
from tf_toolkit.requirements import pip, uv
from tf_toolkit.requirements.failure import Attempt, explain
from tf_toolkit.requirements.file import read

TENSORFLOW = {"tensorflow/__init__.py": "flavour = 'cpu'\n"}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    folder = tmp_path_factory.mktemp("index")
    for version in ("1.0", "1.2"):
        wheel(folder, "foo", version)
    wheel(folder, "bar", "3.4")
    wheel(folder, "bar", "3.5", ("foo>=1",))
    wheel(folder, "broken", "1.0", ("nothere>=3",))
    wheel(folder, "wants-old", "1.0", ("foo==1.0",))
    wheel(folder, "wants-new", "1.0", ("foo==1.2",))
    wheel(folder, "only-elsewhere", "1.0", tag="cp39-cp39-macosx_11_0_arm64")
    for version in ("2.10.0", "2.11.0", "2.12.0"):
        wheel(folder, "tensorflow", version, files={"tensorflow/__init__.py": "flavour = 'other'\n"})
        wheel(folder, "tensorflow-cpu", version, files={"tensorflow/__init__.py": "flavour = 'other'\n"})
    wheel(folder, "keras", "2.10.0")
    wheel(folder, "hub", "1.0", ("tensorflow>=2.5",))
    wheel(folder, "old-hub", "1.0", ("tensorflow<2.11",))
    wheel(folder, "deeper", "1.0", ("old-hub",))
    wheel(folder, "old-cpu", "1.0", ("tensorflow-cpu<2.11",))
    served = Index(folder)
    yield served
    served.close()


@pytest.fixture(params=["pip", "uv"])
def python(request: pytest.FixtureRequest, tmp_path: Path, index: Index) -> Python:
    return Python(tmp_path, request.param, index)


@pytest.fixture
def image(python: Python, tmp_path: Path) -> Python:
    """An image that has TensorFlow for CPUs."""
    python.put(wheel(tmp_path / "image", "tensorflow-cpu", "2.11.0", files=TENSORFLOW))
    python.put(wheel(tmp_path / "image", "keras", "2.11.0"))
    python.put(wheel(tmp_path / "image", "nvidia-cublas-cu12", "12.1"))
    return python


@pytest.fixture
def make_index(tmp_path: Path) -> Iterator[Callable[..., Index]]:
    made: list[Index] = []

    def make(login: str | None = None) -> Index:
        made.append(Index(tmp_path / f"index{len(made)}", login))
        made[-1].folder.mkdir()
        return made[-1]

    yield make
    for one in made:
        one.close()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# What is installed, and from where


def test_requirements_are_installed_and_what_changed_is_one_line(python: Python) -> None:
    python.put(python.index.folder / "bar-3.4-py3-none-any.whl")
    python.requirements("# what we need", "", "foo == 1.2  # the newest", "bar>=3.5")
    outcome = python.install()
    assert outcome.error == ""
    assert "tf-toolkit installed: bar 3.4 -> 3.5, foo 1.2\n" in outcome.log
    assert python.imports("import foo, bar; print(foo.version, bar.version)") == "1.2 3.5"
    again = python.install()
    assert "tf-toolkit installed: nothing, for all was there\n" in again.log


@pytest.mark.parametrize("content", [None, "", "\n\n# nothing yet\n   \n"])
def test_without_a_requirement_nothing_is_run(python: Python, content: str | None) -> None:
    if content is not None:
        (python.code / "requirements.txt").write_text(content)
    outcome = python.install(PIP_INDEX_URL="http://nowhere.invalid", CA_REPOSITORY_ARN="not looked at")
    assert (outcome.error, outcome.log) == ("", "")


def test_lines_are_relative_to_the_code(python: Python) -> None:
    write_package(python.code / "mylib", "mylib")
    (python.code / "requirements").mkdir()
    (python.code / "requirements" / "more.txt").write_text("-r ../last.txt\nbar==3.4\n")
    (python.code / "last.txt").write_text("foo==1.0\n")
    python.requirements("./mylib", "-r requirements/more.txt")
    assert python.install().error == ""
    assert [python.has(name) for name in ("mylib", "bar", "foo")] == ["7.1", "3.4", "1.0"]


def test_a_hostile_line_runs_nothing(python: Python) -> None:
    for line in ("foo; touch stolen", "$(touch stolen)", "`touch stolen`", "foo && touch stolen", "foo\ttouch stolen"):
        python.requirements(line)
        outcome = python.install()
        assert outcome.error == "InstallRequirementsError", line
        assert outcome.message.startswith("requirements.txt line 1 ("), outcome.message
    assert not list(python.root.rglob("stolen"))


def test_files_of_the_user_stand_in_no_installers_way(python: Python) -> None:
    """They lie on PYTHONPATH, and in the directory where it runs."""
    names = ["logging", "queue", "foo", *(["typing", "pip"] if sys.version_info >= (3, 11) else [])]
    for name in names:
        (python.code / f"{name}.py").write_text("raise SystemExit('imported in place of the real one')\n")
    stale = python.code / "foo.egg-info"
    stale.mkdir()
    (stale / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: foo\nVersion: 9.9\n")
    python.requirements("foo")
    outcome = python.install()
    assert outcome.error == "", outcome.log
    assert python.has("foo") == "1.2"


def test_a_quiet_log_level_quiets_the_installer(python: Python) -> None:
    python.requirements("foo")
    outcome = python.install(level=30)
    assert (outcome.error, outcome.log) == ("", "")
    assert python.has("foo") == "1.2"
    python.requirements("foo", "nothere")
    outcome = python.install(level=30)
    assert outcome.message.startswith('requirements.txt line 2 ("nothere"): ')


def test_the_largest_job_can_still_install(python: Python) -> None:
    """One variable holds 128 KiB at most, and the job's description may be longer."""
    python.requirements("foo")
    assert python.install(SIZE="200000").error == ""


def test_a_home_that_cannot_be_written(python: Python) -> None:
    python.requirements("foo")
    assert python.install(HOME="/proc/nowhere").error == ""


# Settings


def test_settings_of_the_platform_reach_the_installer(python: Python, make_index: Callable[..., Index]) -> None:
    other = make_index()
    wheel(other.folder, "private", "5.0")
    python.requirements("private")
    del python.environ["PIP_INDEX_URL"]
    assert python.install(SAGEMAKER_PIP_INDEX_URL=other.url).error == ""
    python.requirements("bar==3.4")
    outcome = python.install(SAGEMAKER_PIP_INDEX_URL=other.url, PIP_INDEX_URL=python.index.url)
    assert outcome.error == "", "the installer's own variable wins"


def test_the_best_of_several_indexes(python: Python, make_index: Callable[..., Index]) -> None:
    older, newer = make_index(), make_index()
    wheel(older.folder, "foo", "0.1")
    wheel(newer.folder, "foo", "7.0")
    python.requirements("foo")
    assert python.install(PIP_EXTRA_INDEX_URL=f"{older.url} {newer.url}").error == ""
    assert python.has("foo") == "7.0"


def test_other_settings_mean_the_same_to_both(image: Python, make_index: Callable[..., Index]) -> None:
    other = make_index()
    wheel(other.folder, "foo", "2.0rc1")
    wheel(other.folder, "early", "1.0")
    wheel(other.folder, "early", "2.0rc1")
    wheel(other.folder, "bar", "3.6")
    (image.code / "limits.txt").write_text("bar<3.6\n")
    image.requirements("foo", "bar")
    more: dict[str, Any] = {"PIP_EXTRA_INDEX_URL": other.url, "PIP_CONSTRAINT": "limits.txt"}
    assert image.install(**more, PIP_DEFAULT_TIMEOUT="20.5", PIP_NO_CACHE_DIR="true").error == ""
    assert (image.has("foo"), image.has("bar")) == ("1.2", "3.5")
    image.requirements("early")
    assert image.install(**more, PIP_PRE="1", PIP_TIMEOUT="20").error == ""
    assert image.has("early") == "2.0rc1"


def test_pips_configuration_file_counts(python: Python, make_index: Callable[..., Index]) -> None:
    other = make_index()
    wheel(other.folder, "private", "5.0")
    del python.environ["PIP_CONFIG_FILE"], python.environ["PIP_INDEX_URL"]
    settings = python.root / "home" / ".config" / "pip" / "pip.conf"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        f"[global]\nindex-url = {python.index.url}\nextra-index-url =\n    {other.url}\n    {other.url}\n"
    )
    python.requirements("private", "foo")
    outcome = python.install()
    assert outcome.error == "", outcome.log
    if python.tool == "uv":
        settings.write_text("not a configuration")
        outcome = python.install()
        assert outcome.error == "InstallRequirementsError"
        assert outcome.message.startswith("pip's configuration cannot be read: ")


def test_what_uv_was_told_wins(tmp_path: Path, index: Index) -> None:
    python = Python(tmp_path, "uv", index)
    python.requirements("foo")
    nowhere = f"http://127.0.0.1:{closed_port()}/simple"
    assert python.install(PIP_INDEX_URL=nowhere, UV_DEFAULT_INDEX=index.url).error == ""


def test_a_folder_of_wheels_needs_no_network(python: Python) -> None:
    wheel(python.code / "wheels", "packed", "1.0", ("inner",))
    wheel(python.code / "wheels", "inner", "2.0")
    python.requirements("packed")
    asked = len(python.index.asked)
    assert python.install(PIP_NO_INDEX="1").error == ""
    assert (python.has("packed"), python.has("inner")) == ("1.0", "2.0")
    python.requirements("packed", "foo")
    outcome = python.install(PIP_NO_INDEX="1")
    assert len(python.index.asked) == asked
    assert re.match(
        r'requirements.txt line 2 \("foo"\): the folder of wheels \(file://.*/my%20code/wheels\) has no version',
        outcome.message,
    )
    assert python.install().error == "", "with an index, the folder is searched besides"


def test_the_folder_of_wheels_comes_to_the_others(python: Python, tmp_path: Path) -> None:
    wheel(python.code / "wheels", "packed", "1.0")
    wheel(tmp_path / "first", "one", "1.0")
    python.requirements("packed", "one", "foo")
    links = f"{tmp_path / 'first'} {tmp_path / 'missing'}"
    assert python.install(PIP_FIND_LINKS=links).error == ""


def test_a_python_that_debian_keeps_installers_from(tmp_path: Path, index: Index) -> None:
    """An image's own Python, marked as the system's: https://peps.python.org/pep-0668/."""
    for tool in ("pip", "uv"):
        python = Python(tmp_path / tool, tool, index)
        prefix = unmanaged_prefix(tmp_path / tool)
        python.executable = prefix / "bin" / "python3"
        python.requirements("foo")
        outcome = python.install(PYTHONPATH=f"{python.environ['PYTHONPATH']}:{python.root / 'lent'}")
        assert outcome.error == "", outcome.log
        assert python.imports("import foo; print(foo.version)") == "1.2"
        python.requirements("bar")
        outcome = python.install(
            PYTHONPATH=f"{python.environ['PYTHONPATH']}:{python.root / 'lent'}",
            PIP_BREAK_SYSTEM_PACKAGES="0",
            UV_BREAK_SYSTEM_PACKAGES="0",
        )
        assert outcome.error == "InstallRequirementsError", "the user's word counts"
        assert "externally" in outcome.message


def unmanaged_prefix(root: Path) -> Path:
    """A Python that is no virtual environment: a copy of the program, and links to its library."""
    prefix = root / "system"
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    library = prefix / "lib" / version
    library.mkdir(parents=True)
    for path in Path(os.__file__).parent.iterdir():
        if path.name not in ("site-packages", "dist-packages", "EXTERNALLY-MANAGED"):
            (library / path.name).symlink_to(path)
    (library / "site-packages").mkdir()
    (library / "EXTERNALLY-MANAGED").write_text("[externally-managed]\nError=externally managed\n")
    (prefix / "bin").mkdir()
    shutil.copy(Path(sys.base_prefix, "bin", version).resolve(), prefix / "bin" / "python3")
    return prefix


# What the image promises


def test_a_requirement_cannot_replace_tensorflow(image: Python) -> None:
    image.requirements("foo", "tensorflow-cpu==2.10.0")
    outcome = image.install()
    assert outcome.error == "InstallRequirementsError"
    assert outcome.message == (
        'requirements.txt line 2 ("tensorflow-cpu==2.10.0"): it would replace tensorflow-cpu 2.11.0, which this image '
        "promises: ask for what goes with that version, or set TF_TOOLKIT_REQUIREMENTS=replace to allow it"
    )
    assert outcome.said["code"] == 69
    assert (image.has("tensorflow-cpu"), image.has("foo")) == ("2.11.0", None)


@pytest.mark.parametrize("line", ["Keras==2.10", "nvidia_cublas_cu12>13", "tensorflow-cpu<2.11"])
def test_what_else_is_protected(image: Python, line: str) -> None:
    image.requirements(line)
    outcome = image.install()
    assert outcome.message.startswith(f'requirements.txt line 1 ("{line}"): it would replace ')
    assert "TF_TOOLKIT_REQUIREMENTS=replace" in outcome.message


def test_a_requirement_of_a_requirement_cannot_either(image: Python) -> None:
    image.requirements("foo", "old-cpu")
    outcome = image.install()
    assert re.match(
        r'requirements.txt line 2 \("old-cpu"\): (old-cpu(==| )1.0 depends|all versions of old-cpu depend) on '
        r"tensorflow-cpu<2.11, which would replace tensorflow-cpu 2.11.0, which this image promises",
        outcome.message,
    ), outcome.message
    assert image.has("tensorflow-cpu") == "2.11.0"


@pytest.mark.parametrize("line", ["tensorflow>=2.10", "tensorflow==2.11", "TensorFlow_GPU~=2.11.0", "hub"])
def test_one_name_of_tensorflow_answers_for_another(image: Python, line: str) -> None:
    """They hold one module, so the one that the image lacks must not come over the one that it has."""
    image.requirements(line, "foo")
    outcome = image.install()
    assert outcome.error == "", outcome.message
    assert "2.11.0+by.tensorflow.cpu" in outcome.log
    assert image.imports("import tensorflow; print(tensorflow.flavour)") == "cpu"
    assert image.has("tensorflow-cpu") == "2.11.0"
    assert image.has("foo") == "1.2"
    assert "nothing, for all was there" in image.install().log


@pytest.mark.parametrize("line", ["tensorflow==2.10", "tensorflow-gpu>2.11", "old-hub", "deeper"])
def test_another_version_under_another_name(image: Python, line: str) -> None:
    image.requirements("foo", line)
    outcome = image.install()
    assert outcome.error == "InstallRequirementsError"
    assert outcome.message.startswith(f'requirements.txt line 2 ("{line}"): '), outcome.message
    assert "would replace tensorflow-cpu 2.11.0, which this image promises" in outcome.message
    assert image.imports("import tensorflow; print(tensorflow.flavour)") == "cpu"
    assert image.has("foo") is None


def test_a_file_of_another_tensorflow(image: Python) -> None:
    image.requirements(f"{image.index.address}/files/tensorflow-2.12.0-py3-none-any.whl")
    outcome = image.install()
    assert "would replace tensorflow-cpu 2.11.0" in outcome.message or "conflicting URLs" in outcome.message
    assert image.imports("import tensorflow; print(tensorflow.flavour)") == "cpu"


def test_replacing_can_be_allowed(image: Python) -> None:
    image.requirements("tensorflow-cpu==2.10.0")
    outcome = image.install(TF_TOOLKIT_REQUIREMENTS="replace")
    assert outcome.error == ""
    assert "installed: tensorflow-cpu 2.11.0 -> 2.10.0\n" in outcome.log


def test_installing_can_be_skipped(image: Python) -> None:
    image.requirements("tensorflow-cpu==2.10.0")
    outcome = image.install(TF_TOOLKIT_REQUIREMENTS="skip")
    assert outcome.error == ""
    assert outcome.log == f"tf-toolkit TF_TOOLKIT_REQUIREMENTS is skip: nothing of {image.code} is installed\n"


def test_a_wrong_switch(python: Python) -> None:
    outcome = python.install(TF_TOOLKIT_REQUIREMENTS="never")
    assert outcome.error == "JobDescriptionError"
    assert outcome.message == "TF_TOOLKIT_REQUIREMENTS is 'never'; expected protect, replace or skip"


def test_a_replacement_that_does_not_go_with_the_rest_is_told(python: Python, tmp_path: Path) -> None:
    python.put(wheel(tmp_path / "image", "stays", "1.0", ("foo<1.1",)))
    python.put(python.index.folder / "foo-1.0-py3-none-any.whl")
    python.requirements("foo==1.2")
    outcome = python.install()
    assert outcome.error == ""
    assert "installed: foo 1.0 -> 1.2" in outcome.log
    assert re.search(r"stays.* requires? .*foo<1.1", outcome.log), outcome.log


# The user's package


def content(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(directory.rglob("*"))}


def test_a_package_and_its_requirements_are_installed_and_leave_no_litter(python: Python) -> None:
    write_package(python.code, "trainer")
    python.requirements("foo")
    before = content(python.code)
    outcome = python.install(package=True)
    assert outcome.error == "", outcome.log
    assert "installed: foo 1.2, trainer 7.1\n" in outcome.log
    assert content(python.code) == before
    assert python.imports("import trainer; print(trainer.__file__)").startswith(str(python.packages))


def test_a_package_without_requirements(python: Python) -> None:
    write_package(python.code, "trainer")
    assert python.install(package=True).error == ""
    assert python.has("trainer") == "7.1"


def test_a_package_that_does_not_build(python: Python) -> None:
    write_package(
        python.code, "trainer", "def build_wheel(*_):\n    raise RuntimeError('no such compiler: gfortran')\n"
    )
    outcome = python.install(package=True)
    assert outcome.error == "InstallModuleError"
    assert outcome.message.startswith(f"the package in {python.code}: ")
    assert outcome.message.endswith("its build failed: RuntimeError: no such compiler: gfortran")
    assert "backend.py" in outcome.details


def test_a_requirement_that_does_not_build(python: Python) -> None:
    write_package(python.code / "mylib", "mylib", "def build_wheel(*_):\n    raise RuntimeError('no gfortran')\n")
    python.requirements("foo", "./mylib")
    outcome = python.install()
    assert outcome.error == "InstallRequirementsError"
    assert outcome.message == 'requirements.txt line 2 ("./mylib"): its build failed: RuntimeError: no gfortran'


def test_a_build_that_needs_what_is_not_there(python: Python) -> None:
    write_package(python.code / "mylib", "mylib")
    toml = python.code / "mylib" / "pyproject.toml"
    toml.write_text(toml.read_text().replace("requires = []", 'requires = ["nothere>=4"]'))
    python.requirements("foo", "./mylib")
    outcome = python.install()
    assert re.match(
        r'requirements.txt line 2 \("./mylib"\): its build failed: it needs nothere\S*, and the index .* has none$',
        outcome.message,
    ), outcome.message


def test_a_package_that_needs_another_tensorflow(image: Python) -> None:
    write_package(image.code, "trainer", requires="'tensorflow<2.11'")
    outcome = image.install(package=True)
    assert outcome.error == "InstallModuleError"
    assert outcome.message.startswith(f"the package in {image.code}: ")
    assert "depends on tensorflow<2.11, which would replace tensorflow-cpu 2.11.0" in outcome.message


# Failures


def test_a_package_that_is_on_no_index(python: Python) -> None:
    python.requirements("foo", "", "some-private-package==1.0")
    outcome = python.install()
    assert outcome.error == "InstallRequirementsError"
    start = 'requirements.txt line 3 ("some-private-package==1.0"): '
    assert outcome.message.startswith(f"{start}the index ({python.index.url}) has no version"), outcome.message
    assert "some-private-package" in outcome.details
    assert python.has("foo") is None


@pytest.mark.parametrize(
    ("lines", "blamed", "reasons"),
    [
        (["bar", "foo==9"], 'line 2 ("foo==9")', ["no such version of it; it has 1.0, 1.2", "no version of foo==9"]),
        (["foo", "broken"], 'line 2 ("broken")', ["nothere>=3, which broken needs", "has no version of nothere"]),
        (
            ["only-elsewhere"],
            'line 1 ("only-elsewhere")',
            ["has no version of it for this Python", "no wheels with a matching"],
        ),
        (
            ["foo", "wants-old", "wants-new"],
            'line 2 ("wants-old")',
            ["these exclude one another: wants-old 1.0 depends on foo==1.0; ", "wants-old depend on foo==1.0"],
        ),
        (["foo", "bar=3"], 'line 2 ("bar=3")', ["not a requirement: = is not a valid operator", "no such comparison"]),
        (["foo", "--bogus"], 'line 2 ("--bogus")', ["no such option: --bogus", "Unexpected '-'"]),
        (["foo", "./nowhere"], 'line 2 ("./nowhere")', ["File './nowhere' does not exist", "Distribution not found"]),
        (["-r more.txt"], 'line 1 ("-r more.txt")', ["there is no file "]),
    ],
)
def test_the_line_and_the_reason(python: Python, lines: list[str], blamed: str, reasons: list[str]) -> None:
    python.requirements(*lines)
    outcome = python.install()
    assert outcome.error == "InstallRequirementsError"
    assert outcome.message.startswith(f"requirements.txt {blamed}: "), outcome.message
    assert any(reason in outcome.message for reason in reasons), outcome.message
    assert "\n" not in outcome.message


def test_a_line_of_an_included_file(python: Python) -> None:
    (python.code / "more").mkdir()
    (python.code / "more" / "base.txt").write_text(f"\n\nnothere==2 \\\n  --hash=sha256:{'a' * 64}\n")
    python.requirements("# all of it:", "-r more/base.txt")
    outcome = python.install()
    assert outcome.message.startswith('more/base.txt line 3 ("nothere==2 --hash=sha256:aaa'), outcome.message


def test_an_index_that_is_not_there(python: Python) -> None:
    python.requirements("foo")
    outcome = python.install(PIP_INDEX_URL=f"http://127.0.0.1:{closed_port()}/simple")
    assert outcome.message.startswith('requirements.txt line 1 ("foo"): ')
    assert re.search(r"cannot be (reached|fetched): .*Connection refused", outcome.message), outcome.message


@pytest.mark.parametrize(("user", "answer"), [("", "401 Unauthorized"), ("me:wr0ngpassw0rd@", "403 Forbidden")])
def test_an_index_that_refuses(python: Python, make_index: Callable[..., Index], user: str, answer: str) -> None:
    private = make_index("me:s3cretpassw0rd")
    wheel(private.folder, "private", "1.0")
    python.requirements("private")
    outcome = python.install(PIP_INDEX_URL=private.url.replace("://", f"://{user}"))
    shown = private.url.replace("://", "://******@") if user else private.url
    assert outcome.message == f'requirements.txt line 1 ("private"): the index ({shown}) answered {answer}'
    assert "passw0rd" not in outcome.message + outcome.details + outcome.log


def test_a_password_in_the_file_is_not_repeated(python: Python, make_index: Callable[..., Index]) -> None:
    private = make_index("me:s3cretpassw0rd")
    wheel(private.folder, "private", "1.0")
    python.requirements(f"--index-url {private.url.replace('://', '://me:0ldpassw0rd@')}", "private")
    del python.environ["PIP_INDEX_URL"]
    outcome = python.install()
    assert outcome.message.startswith('requirements.txt line 2 ("private"): '), outcome.message
    assert "403 Forbidden" in outcome.message
    assert "passw0rd" not in outcome.message + outcome.details + outcome.log


def test_a_wrong_hash(python: Python) -> None:
    right = hashlib.sha256((python.index.folder / "foo-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    python.requirements(f"foo==1.0 --hash=sha256:{right}")
    assert python.install().error == ""
    python.requirements(f"foo==1.2 --hash=sha256:{right}")
    outcome = python.install()
    assert outcome.message.startswith(
        f'requirements.txt line 1 ("foo==1.2 --hash=sha256:{right}"): the file that the index'
    )
    assert outcome.message.endswith("does not match its hash")


def test_an_address_that_is_not_there(python: Python) -> None:
    python.requirements(f"lost @ {python.index.address}/files/lost-1.0-py3-none-any.whl")
    outcome = python.install()
    assert outcome.message.startswith('requirements.txt line 1 ("lost @ ')
    assert "404" in outcome.message


def test_a_repository_that_is_not_there(python: Python) -> None:
    git = shutil.which("git")
    assert git, "the tests need git"
    python.requirements("foo", f"lib @ git+http://t0kenpassw0rd@127.0.0.1:{closed_port()}/lib.git")
    outcome = python.install(PATH=f"{python.environ['PATH']}:{Path(git).parent}")
    assert outcome.message.startswith('requirements.txt line 2 ("lib @ git+http://******@127.0.0.1'), outcome.message
    assert "git: unable to access" in outcome.message
    assert "t0kenpassw0rd" not in outcome.message + outcome.details


def test_a_damaged_wheel_is_explained_by_the_installers_last_words(
    python: Python, make_index: Callable[..., Index]
) -> None:
    other = make_index()
    (other.folder / "foo-1.0-py3-none-any.whl").write_bytes(b"this is no archive")
    python.requirements("foo")
    outcome = python.install(PIP_INDEX_URL=other.url)
    assert outcome.error == "InstallRequirementsError"
    assert re.search("(?i)zip|wheel|invalid|download", outcome.message), outcome.message


def test_neither_pip_nor_uv(tmp_path: Path, index: Index) -> None:
    python = Python(tmp_path, "none", index)
    python.requirements("foo")
    outcome = python.install()
    assert outcome.error == "InstallRequirementsError"
    assert outcome.message == f"there is neither uv on PATH nor pip for {python.executable}; add one to the image"


def test_an_uv_that_cannot_be_started(tmp_path: Path, index: Index) -> None:
    python = Python(tmp_path, "none", index)
    uv = tmp_path / "bin" / "uv"
    uv.write_bytes(b"\x7fELF of another machine")
    uv.chmod(0o755)
    python.requirements("foo")
    outcome = python.install()
    assert outcome.error == "InstallRequirementsError"
    assert f"{uv} cannot be started" in outcome.message


def test_a_stop_ends_the_install(python: Python, make_index: Callable[..., Index]) -> None:
    slow = make_index()
    wheel(slow.folder, "foo", "1.0")
    slow.go.clear()
    python.requirements("foo")
    temporary = python.root / "tmp"
    temporary.mkdir()
    process = python.start(PIP_INDEX_URL=slow.url, TMPDIR=str(temporary))
    wait_until(lambda: slow.asked, "the index is asked")
    process.send_signal(signal.SIGTERM)
    outcome = python.finish(process)
    assert (outcome.error, outcome.said["signal"]) == ("Stopped", signal.SIGTERM)
    assert python.has("foo") is None
    assert not list(temporary.iterdir())


# The file itself


@pytest.mark.parametrize(
    ("raw", "reason"),
    [(b"foo\nb\xe4r\n", "byte 5 is not UTF-8; save the file as UTF-8"), (b"\xff\xfef", "byte 2 is not UTF-16")],
)
def test_a_file_that_is_no_text(python: Python, raw: bytes, reason: str) -> None:
    (python.code / "requirements.txt").write_bytes(raw)
    outcome = python.install()
    assert outcome.error == "InstallRequirementsError"
    assert outcome.message.startswith(f"requirements.txt: {reason}"), outcome.message


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_with_a_mark(python: Python, encoding: str) -> None:
    (python.code / "requirements.txt").write_text("foo==1.0\nnothere\n", encoding=encoding)
    assert python.install().message.startswith('requirements.txt line 2 ("nothere"): ')


def test_what_is_no_file(python: Python) -> None:
    path = python.code / "requirements.txt"
    path.mkdir()
    assert python.install().message == "requirements.txt: not a regular file; expected a text file of requirements"
    path.rmdir()
    os.mkfifo(path)
    assert python.install().message == "requirements.txt: not a regular file; expected a text file of requirements"
    path.unlink()
    path.symlink_to("gone")
    assert python.install().message == "requirements.txt: cannot be read: No such file or directory"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                ["-r", "requirements.txt", "\\", "#", "\n", "-e ./x", "foo[a]==1", "git+https://", "a@b", "\r"]
            ),
            st.text(max_size=8),
        )
    )
)
def test_any_text_is_read_as_numbered_lines(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    directory = tmp_path_factory.mktemp("any")
    text = "".join(parts)
    try:
        (directory / "requirements.txt").write_text(text, encoding="utf-8", newline="")
    except UnicodeEncodeError:
        return
    try:
        lines = read(directory)
    except InstallRequirementsError as error:
        assert "there is no file" in str(error) or "not a regular file" in str(error)
        return
    for line in lines:
        assert line.text
        assert 1 <= line.number <= len(text.splitlines())
        assert "\n" not in str(line)


SAYINGS = [
    *("ERROR: ", "error: ", "  cause: ", "Caused by: ", "hint: ", "\n", "    ", "\x1b[31m", "tensorflow", "fatal: "),
    *("Because foo was not found in the package registry", " and you require foo>=1", ", we can conclude that"),
    "No solution found when resolving dependencies:\n",
    "Could not find a version that satisfies the requirement ",
    *("(from versions: none)", "(from -r requirements.txt (line 1))", "Invalid requirement: ", "Hint: "),
    *("Failed to build `foo==1`", "╰─> [2 lines of output]\n", "[end of output]", "DO NOT MATCH THE HASHES"),
    "Cannot install foo because these package versions have conflicting dependencies.\n\nThe conflict is caused by:\n",
    "    The user requested (constraint) tensorflow-cpu==2.11.0\n",
    *("Couldn't parse requirement in ", "Retry(total=0 connection broken by '", "': /", "Failed to fetch: http://x/"),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(SAYINGS), st.text(max_size=5)), max_size=40), st.sampled_from([pip, uv]))
def test_whatever_an_installer_says_there_is_one_line(
    tmp_path_factory: pytest.TempPathFactory, sayings: list[str], tool: object
) -> None:
    directory = tmp_path_factory.getbasetemp() / "said"
    directory.mkdir(exist_ok=True)
    (directory / "requirements.txt").write_text("foo\n")
    found = tool.find(directory, {"PATH": str(Path(sys.executable).parent)}, False) if tool is uv else tool.find({})  # type: ignore[attr-defined]
    assert found is not None
    attempt = Attempt("".join(sayings), read(directory), directory, {"tensorflow": "tensorflow 2.11.0"}, found.source)
    message = explain(attempt, found.rules, "requirements.txt")
    assert message.startswith("requirements.txt")
    assert "\n" not in message
    assert found.unexplained(attempt.output) != ""


def test_what_an_installer_says_is_masked_before_it_reaches_the_log(python: Python) -> None:
    """A package whose build prints its environment, and a URL with a password in it."""
    package = python.code / "leaky"
    package.mkdir()
    (package / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    )
    (package / "backend.py").write_text(
        "import os, sys\nsys.stderr.write(os.environ['MY_TOKEN'] + ' https://me:pa55word@example.org/x\\n')\nsys.exit(3)\n"
    )
    python.requirements("./leaky")
    outcome = python.install(MY_TOKEN="variable-SECRET")
    assert outcome.error
    assert "example.org" in outcome.log
    assert "variable-SECRET" not in outcome.log + outcome.error
    assert "pa55word" not in outcome.log + outcome.error
