"""Stage 3, install: fetch the user's code, install what it needs, and the command to run."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tf_toolkit import requirements
from tf_toolkit.config import JobConfig
from tf_toolkit.contract import TENSORFLOW_TRAINING_MODULE, Paths
from tf_toolkit.entry_point import SUBMIT_IT, command_for, find_entry_point, held_by, is_package
from tf_toolkit.errors import SourceError
from tf_toolkit.masking import mask_urls
from tf_toolkit.process import Command

log = logging.getLogger("tf_toolkit")

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
            from tf_toolkit.source import fetch  # Only a job that fetches its code pays for it.

            directory = fetch(source, config, paths, variables)
        elif _training_module(config) is not None:
            directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        raise SourceError(f"{source or directory} cannot be made ready to run: {found}") from error
    command = look(config, directory)
    quiet = config.log_level > logging.INFO
    requirements.install(directory, installs_package(config, command), quiet, variables, stop_grace)
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
        raise SourceError(f"{mask_urls(submitted)} is no address of code; {SUBMIT_IT} to an s3:// address or a path")
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
            f"{submitted}: {error.strerror}; {SUBMIT_IT} to what is there, or mount the code at {paths.code}"
        ) from error
