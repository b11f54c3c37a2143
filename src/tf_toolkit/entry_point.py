"""Which file of the user's code is run, and by what command. Only looks: nothing is started or written."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tf_toolkit.errors import ExecuteUserScriptError, JobDescriptionError

log = logging.getLogger("tf_toolkit")

# Where code is put together before it is moved into place; one left by a launcher that was killed counts for nothing.
STAGE_PREFIX = ".tf-toolkit-"
_SETUP_TABLE = rb"^[ \t]*\[[ \t]*(project|build-system)[ \t]*\]"
_NEVER_ENTRY_POINTS = frozenset({"setup.py", "__init__.py"})
SUBMIT_IT = "set the hyperparameter sagemaker_submit_directory"
_NAME_IT = "set the hyperparameter sagemaker_program or the variable SAGEMAKER_PROGRAM"
_LISTED = 10
_LOOKED_AT = 1000
_FIRST_BYTES = 4096


def find_entry_point(named: str | None, directory: Path) -> str:
    """The entry point, relative to ``directory``: the one ``named``, else ``train.py``, else the only script there."""
    name = named or _only_script(directory)
    path = directory / name
    try:
        if path.is_dir():
            raise JobDescriptionError(f"entry point {name!r} is a directory in {directory}; name a file in it")
        if not path.is_file():
            found = _what_is_there(name, directory)
            raise JobDescriptionError(f"entry point {name!r} is no file in {directory}; {found}")
    except OSError as error:
        raise JobDescriptionError(f"entry point {path} cannot be read: {error.strerror}") from error
    target = Path(os.path.realpath(path))
    if Path(os.path.realpath(directory)) not in target.parents:
        raise JobDescriptionError(
            f"entry point {name!r} is a link that leads out of {directory}, to {target}; put the file itself there"
        )
    return name


def command_for(entry_point: str, directory: Path) -> tuple[str, ...]:
    """The command of an entry point, without its arguments, to be run in ``directory``."""
    if not entry_point.endswith(".py"):
        return _executed(entry_point, directory)
    module = _module_name(entry_point, directory) if is_package(entry_point, directory) else None
    return (sys.executable, "--", entry_point) if module is None else (sys.executable, "-m", module)


def is_package(entry_point: str, directory: Path) -> bool:
    """Whether the directory is a package to be installed for this entry point."""
    if entry_point.endswith(".sh"):
        return False
    try:
        setup = re.search(_SETUP_TABLE, (directory / "pyproject.toml").read_bytes(), re.MULTILINE)
    except OSError:
        setup = None
    return setup is not None or (directory / "setup.py").is_file()


def held_by(directory: Path) -> list[str]:
    """Names of what a code directory holds; none where there is no directory."""
    try:
        return sorted(path.name for path in directory.iterdir() if not path.name.startswith(STAGE_PREFIX))
    except FileNotFoundError:
        if directory.is_symlink():
            raise JobDescriptionError(f"{directory} is a link to nothing; expected a directory of code") from None
        return []
    except OSError as error:
        raise JobDescriptionError(f"{directory}: {error.strerror}; expected a directory of code") from error


def _only_script(directory: Path) -> str:
    scripts = [
        name
        for name in held_by(directory)
        if name.endswith((".py", ".sh")) and not name.startswith(".") and name not in _NEVER_ENTRY_POINTS
    ]
    if "train.py" in scripts:
        return "train.py"
    if len(scripts) > 1:
        raise JobDescriptionError(f"{directory} holds several scripts; {_NAME_IT} to one of {_listed(scripts)}")
    if not scripts:
        raise JobDescriptionError(f"there is no script in {directory}; {_what_is_there('', directory)}")
    log.info("no entry point is named; running %s, the only script in %s", scripts[0], directory)
    return scripts[0]


def _what_is_there(name: str, directory: Path) -> str:
    """What might be meant by an entry point that is not there."""
    import difflib
    import itertools

    files = list(itertools.islice(_files(directory), _LOOKED_AT))
    elsewhere = [file for file in files if file.rpartition("/")[2] == name.rpartition("/")[2]]
    alike = elsewhere or difflib.get_close_matches(name, files)
    if alike:
        return f"did you mean {_listed(alike)}?"
    if held_by(directory):
        return f"it holds {_listed(files) or 'no files'}; {_NAME_IT} to a file of the code"
    return f"it is empty or not there; mount the code there, or {SUBMIT_IT}"


def _files(directory: Path) -> Iterator[str]:
    """Relative names of the files that are not hidden, those at the top first."""
    for parent, directories, files in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield (Path(parent) / name).relative_to(directory).as_posix()


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(repr(name) for name in names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _module_name(entry_point: str, directory: Path) -> str | None:
    """The name to import an entry point by, or None where it, or a directory it is in, is no module."""
    parts = entry_point[: -len(".py")].split("/")
    packages = (directory.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts)))
    if all(part.isidentifier() for part in parts) and all(package.is_file() for package in packages):
        return ".".join(parts)
    return None


def _executed(entry_point: str, directory: Path) -> tuple[str, ...]:
    """The command of a file that is not Python. Its mode stays as it is: the file may be the user's own, mounted."""
    path = directory / entry_point
    start = f"./{entry_point}"
    try:
        with path.open("rb") as file:
            head = file.read(_FIRST_BYTES)
    except OSError as error:
        raise JobDescriptionError(f"entry point {path} cannot be read: {error.strerror}") from error
    executable = os.access(path, os.X_OK)
    if head.startswith(b"\x7fELF"):
        if not executable:
            raise ExecuteUserScriptError(f"{path} is a program without permission to execute it; chmod +x it")
        return (start,)
    if not head.startswith(b"#!"):
        return ("/bin/sh", start)
    interpreter = _interpreter(head, path, directory)
    return (start,) if executable else (*interpreter, start)


def _interpreter(head: bytes, path: Path, directory: Path) -> tuple[str, ...]:
    """The interpreter and its one argument, split as the kernel does (execve(2), "Interpreter scripts")."""
    line = re.split(rb"[\n\0]", head[len(b"#!") :], maxsplit=1)[0]
    if b"\r" in line:
        raise ExecuteUserScriptError(f"{path} has Windows line ends (CRLF), so it cannot be started; dos2unix it")
    program, *argument = re.split(r"[ \t]+", os.fsdecode(line).strip(" \t"), maxsplit=1)
    if not program:
        raise ExecuteUserScriptError(f"{path}: its #! line names no interpreter; expected such as #!/bin/sh")
    if not os.access(directory / program, os.X_OK) or (directory / program).is_dir():
        raise ExecuteUserScriptError(
            f"{path}: its interpreter {program} is no program in this image; install it, or correct the #! line"
        )
    # Without a slash it would be looked for on PATH, where the kernel looks in the working directory.
    return (program if "/" in program else f"./{program}", *argument)
