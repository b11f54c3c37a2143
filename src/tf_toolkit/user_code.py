"""Stage 3, install: fetch the user's code, install what it needs, and the command to run."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tf_toolkit import archive, requirements, s3, tree
from tf_toolkit.config import JobConfig
from tf_toolkit.contract import TENSORFLOW_TRAINING_MODULE, Paths
from tf_toolkit.entry_point import STAGE_PREFIX, command_for, find_entry_point, held_by, is_package
from tf_toolkit.errors import SourceError
from tf_toolkit.masking import mask_urls
from tf_toolkit.process import Command

log = logging.getLogger("tf_toolkit")

_SUBMIT_IT = "set the hyperparameter sagemaker_submit_directory"
# Its arguments: the module, the function, and what the function then finds in sys.argv behind its module's name.
_CALL = (
    "import importlib, operator, sys; module, function = sys.argv[1:3]; sys.argv[:3] = [module]; "
    "operator.attrgetter(function)(importlib.import_module(module))()"
)


def install_user_code(config: JobConfig, paths: Paths, variables: Mapping[str, str], stop_grace: float) -> Command:
    """Fetch the code if need be, and install what it needs.

    ``variables`` are the script's own: S3 settings come from there, and installers get them.

    Raises SourceError, JobDescriptionError, InstallRequirementsError, InstallModuleError, ExecuteUserScriptError.
    """
    source = _source(config, paths)
    directory = paths.code
    try:
        if source is not None:
            directory = _fetch(source, config, paths, variables)
        elif _training_module(config) is not None:
            directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        raise SourceError(f"{source or directory} cannot be made ready to run: {found}") from error
    command = look(config, directory)
    requirements.install(directory, installs_package(config, command), config, variables, stop_grace)
    return command


def locate(config: JobConfig, paths: Paths) -> Path | None:
    """The directory that holds the code now; None where it must be fetched or unpacked first. Only looks."""
    source = _source(config, paths)
    if source is None:
        return paths.code
    return source if isinstance(source, Path) and source.is_dir() else None


def look(config: JobConfig, directory: Path) -> Command:
    """How the code in ``directory`` is to be run. Only looks."""
    module = _training_module(config)
    if module is not None:
        return Command((sys.executable, "-c", _CALL, *module.split(":")), str(directory), config.entry_point)
    entry_point = find_entry_point(config.entry_point, directory)
    return Command(command_for(entry_point, directory), str(directory), entry_point)


def installs_package(config: JobConfig, command: Command) -> bool:
    """Whether the code is a package to be installed before it runs; another image's module sees to its own."""
    if command.entry_point is None or _training_module(config) is not None:
        return False
    return is_package(command.entry_point, Path(command.directory))


def _training_module(config: JobConfig) -> str | None:
    return None if config.training_module == TENSORFLOW_TRAINING_MODULE else config.training_module


def _source(config: JobConfig, paths: Paths) -> str | Path | None:
    """What to fetch: an S3 address or a path; None where the code is in the code directory already."""
    submitted = config.submit_directory
    scheme, is_url, rest = submitted.partition("://")
    if is_url and scheme.lower() == "s3":
        return submitted
    if is_url and scheme.lower() != "file":
        raise SourceError(f"{mask_urls(submitted)} is no address of code; {_SUBMIT_IT} to an s3:// address or a path")
    path = Path(rest if is_url else submitted)
    if is_url and "%" in rest and not os.access(path, os.F_OK):
        from urllib.parse import unquote

        path = Path(unquote(rest))
    if path.absolute() == paths.code.absolute():
        return None
    try:
        status = path.stat()
        return None if paths.code.exists() and os.path.samestat(status, paths.code.stat()) else path
    except OSError as error:
        if is_url and held_by(paths.code):
            # The SDK's newer local mode mounts the code and sends the path that it has on the host.
            log.warning("%s is not in this container; running the code in %s", submitted, paths.code)
            return None
        raise SourceError(
            f"{submitted}: {error.strerror}; {_SUBMIT_IT} to what is there, or mount the code at {paths.code}"
        ) from error


def _fetch(source: str | Path, config: JobConfig, paths: Paths, variables: Mapping[str, str]) -> Path:
    """Bring code into the code directory, or where that holds files into a new one; whole, or not at all."""
    import shutil
    import tempfile

    with contextlib.ExitStack() as undo:
        directory = paths.code
        if held_by(paths.code):
            directory = Path(tempfile.mkdtemp(prefix="tf-toolkit-code-"))
            undo.callback(shutil.rmtree, directory, ignore_errors=True)
            log.warning("%s holds files and is left alone; the code of %s runs in %s", paths.code, source, directory)
        directory.mkdir(parents=True, exist_ok=True)
        # Inside, for the code directory may be a mount of its own, and files are renamed only within one.
        with tempfile.TemporaryDirectory(prefix=STAGE_PREFIX, dir=directory) as temporary:
            stage = Path(temporary)
            if isinstance(source, str):
                _download(source, config, variables, stage)
            elif source.is_dir():
                tree.copy(source, stage, without=(directory, paths.code, paths.root))
            else:
                _unpack(source, str(source), source.name, stage)
            with contextlib.ExitStack() as moves:
                for path in list(stage.iterdir()):
                    moves.callback(path.rename(directory / path.name).rename, path)
                moves.pop_all()
        undo.pop_all()
    return directory


def _download(url: str, config: JobConfig, variables: Mapping[str, str], stage: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="tf-toolkit-source-") as temporary:
        file = Path(temporary) / "source"
        s3.download(url, file, config.region, variables)
        _unpack(file, url, s3.parse(url).key.rpartition("/")[2], stage)


def _unpack(file: Path, said: str, name: str, stage: Path) -> None:
    """Unpack an archive, or copy any other file under its ``name``. Messages call it ``said``."""
    if not file.is_file():
        raise SourceError(f"{said} is neither a file nor a directory; {_SUBMIT_IT} to one")
    if archive.is_archive(file, said):
        archive.unpack(file, said, stage)
        return
    with file.open("rb") as content:
        tree.Tree(stage).add_file(name, os.fstat(content.fileno()).st_mode, content)
