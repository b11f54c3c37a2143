"""The user's code beside a model: where it lies, and what is to be installed for it.

It is ``code/inference.py`` beside the models. SAGEMAKER_PROGRAM names another file, SAGEMAKER_SUBMIT_DIRECTORY another
place (code_source.py). Both may be left over from an image's training, so that what they name is taken for handlers
only if the word stands in it, and is not run otherwise.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tf_toolkit import requirements, signals
from tf_toolkit.contract import STOP_GRACE_SECONDS
from tf_toolkit.errors import JobDescriptionError, Stopped
from tf_toolkit.requirements import REQUIREMENTS_FILE
from tf_toolkit.serving import code_source

log = logging.getLogger("tf_toolkit")

PROGRAM = "SAGEMAKER_PROGRAM"
INFERENCE = "inference.py"
_CODE, _LIB = "code", "lib"
_DEFINES_HANDLER = re.compile(rb"^(async +)?def +((input|output)_)?handler *\(", re.MULTILINE)
# Near where code should be, how many folders are looked into, how deep, and at how many scripts.
_LOOKED_INTO, _DEEPEST, _LOOKED_AT = 1000, 5, 200
_NEVER_CODE = frozenset({"assets", "assets.extra", "variables"})


class ModelCode(NamedTuple):
    """Code to be imported."""

    directory: Path
    # Lies in it.
    program: Path

    @property
    def import_paths(self) -> tuple[Path, ...]:
        """Where it imports from, the first first.

        The SDK copies what its users name as dependencies into ``lib``: a folder that is itself called so, as in its
        documentation, comes to lie one deeper.
        """
        lib = self.directory / _LIB
        folders = [self.program.parent, self.directory, lib]
        if not (lib / _LIB / "__init__.py").exists():
            folders.append(lib / _LIB)
        return tuple(folder for folder in dict.fromkeys(folders) if folder.is_dir())

    @property
    def requirements(self) -> Path | None:
        """What is to be installed: of ``lib``, where that is there, else of the code itself."""
        lib = self.directory / _LIB
        file = (lib if lib.is_dir() else self.directory) / REQUIREMENTS_FILE
        return file if file.exists() else None


def find(model_dir: Path, environ: Mapping[str, str]) -> ModelCode | None:
    """The code of a server of one archive of models; None where there is none. The log says where it was looked for.

    Raises SourceError where code cannot be fetched, and JobDescriptionError for what cannot be read.
    """
    directories = list(dict.fromkeys([*code_source.here(environ), model_dir / _CODE]))
    code = _choose(directories, environ)
    if code is None:
        fetched = code_source.fetch(environ)
        code = _choose(fetched, environ)
        directories = [*fetched, *directories]
    if code is None:
        _report_none(directories, model_dir, environ)
    return code


def find_of_model(model_dir: Path, environ: Mapping[str, str]) -> ModelCode | None:
    """A model's own code, on a server of many archives. It counts before :func:`find_common`'s.

    Raises JobDescriptionError for what cannot be read.
    """
    code = _choose([model_dir / _CODE], environ)
    if code is None:
        _report_none([model_dir / _CODE], model_dir, environ)
    elif code.requirements is not None:
        log.warning(
            "%s is not installed: what one model needs may be wrong for others; put the packages into %s",
            code.requirements,
            code.directory / _LIB,
        )
    return code


def find_common(model_dir: Path, environ: Mapping[str, str]) -> ModelCode | None:
    """The code of those models that have none of their own, on a server of many archives.

    They lie beside ``model_dir``, the folder of a server of one. Raises as :func:`find`.
    """
    root = model_dir.parent
    fetched = code_source.fetch_common(environ)
    directories = [*fetched, *code_source.here(environ), root / _CODE, root / "models" / _CODE]
    code = _choose(list(dict.fromkeys(directories)), environ)
    if code is None:
        log.info("no common handlers: there is no %s in %s", INFERENCE, _listed(directories))
    return code


def install(code: ModelCode, environ: Mapping[str, str], quiet: bool) -> None:
    """Install what the code needs, into the running environment: before anything is imported that it may replace.

    A stop signal ends the installer, and then comes to whoever handled it before. Raises InstallRequirementsError,
    JobDescriptionError and Stopped.
    """
    file, ignored = code.requirements, code.directory / REQUIREMENTS_FILE
    if file != ignored and ignored.exists():
        log.warning("%s is ignored, for there is %s", ignored, code.directory / _LIB)
    if file is None:
        return
    log.info("installing %s", file)
    with _signals_given_back():
        requirements.install(file.parent, False, quiet, environ, STOP_GRACE_SECONDS)
    importlib.invalidate_caches()


@contextlib.contextmanager
def _signals_given_back() -> Iterator[None]:
    """Within, signals are for the installer's supervisor; it keeps them, and a server wants its own back."""
    handlers = {number: signal.getsignal(number) for number in (*signals.FORWARDED, signal.SIGCHLD)}
    stopped_by = None
    try:
        yield
    except Stopped as stop:
        stopped_by = stop.signal_number
        raise
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
        if stopped_by is not None:
            signal.raise_signal(stopped_by)


def _names(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What the program may be called."""
    named = environ.get(PROGRAM, "")
    return tuple(dict.fromkeys([*([named] if named.endswith(".py") else []), INFERENCE]))


def _choose(directories: Sequence[Path], environ: Mapping[str, str]) -> ModelCode | None:
    for directory in directories:
        for name in _names(environ):
            program = directory / name
            # One by the documented name is meant; if it has no handler, that is a mistake to be told.
            if program.is_file() and (name == INFERENCE or b"handler" in _text(program)):
                named = environ.get(PROGRAM)
                if named not in (None, "", name):
                    log.warning("%s is %s, which has no handler or is not there", PROGRAM, named)
                log.info("handlers of %s", program)
                return ModelCode(directory.absolute(), program.absolute())
    return None


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise JobDescriptionError(f"{path} cannot be read: {error.strerror}") from error


def _report_none(directories: Sequence[Path], model_dir: Path, environ: Mapping[str, str]) -> None:
    """Say where code was looked for, and what lies near that looks as if it were meant."""
    names = _names(environ)
    log.info("no handlers: there is no %s in %s", " or ".join(names), _listed(directories))
    named = environ.get(PROGRAM)
    unfit = [str(directory / named) for directory in directories if named and (directory / named).is_file()]
    if named and any(directory.is_dir() for directory in directories):
        found = f"{unfit[0]} has no handler" if unfit else f"there is none in {_listed(directories)}"
        log.warning("%s is %s, but %s", PROGRAM, named, found)
    for path in _near(model_dir, names):
        if path.parent in directories:
            log.warning("%s is not used: rename it to %s, or set %s=%s", path, INFERENCE, PROGRAM, path.name)
        else:
            log.warning("%s is not used: it belongs to %s", path, directories[-1] / INFERENCE)
    for directory in directories:
        if (directory / REQUIREMENTS_FILE).exists():
            log.warning("%s is not installed: there is no %s beside it", directory / REQUIREMENTS_FILE, INFERENCE)


def _near(model_dir: Path, names: Sequence[str]) -> Iterator[Path]:
    for path in itertools.islice(_scripts(model_dir), _LOOKED_AT):
        text = _text(path)
        if path.name == INFERENCE or (path.name in names and b"handler" in text) or _DEFINES_HANDLER.search(text):
            yield path


def _scripts(folder: Path) -> Iterator[Path]:
    for number, (parent, directories, files) in enumerate(os.walk(folder)):
        deep = len(Path(parent).relative_to(folder).parts)
        directories[:] = sorted(
            name for name in directories if deep < _DEEPEST and name not in _NEVER_CODE and not name.startswith(".")
        )
        if number == _LOOKED_INTO:
            return
        yield from (Path(parent) / name for name in sorted(files) if name.endswith(".py"))


def _listed(directories: Sequence[Path]) -> str:
    return ", ".join(map(str, directories))
