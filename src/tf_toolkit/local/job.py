"""A job as a person described it on the command line, checked: each mistake is one line with its remedy."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tf_toolkit import contract
from tf_toolkit.contract import Paths
from tf_toolkit.errors import ToolkitError
from tf_toolkit.local import hosts as local_hosts

RUNS = "tf-toolkit-runs"
# As the platform calls them.
FILE, PIPE = INPUT_MODES = ("File", "Pipe")
COMPRESSIONS = ("Gzip",)
# As the platform takes it (https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_Channel.html).
_CHANNEL_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,64}")
# Said by SCRIPT and --source-dir; the job's name is made here.
_NOT_GIVEN = (contract.PROGRAM, contract.SUBMIT_DIRECTORY, contract.JOB_NAME)


class UsageError(ToolkitError):
    """The command line is wrong."""

    exit_code = 2


class Container(NamedTuple):
    """What a host of the job is, with --image."""

    image: str
    # How many, -1 for all; None for none.
    gpus: int | None
    # In bytes.
    memory: int | None
    # In billionths of a CPU.
    nano_cpus: int | None
    # Of its environment; nothing else of the person's goes there.
    variables: dict[str, str]


class PipeMode(NamedTuple):
    """How channels are fed, with --input-mode Pipe."""

    # What the files are unzipped of before the FIFO, as in COMPRESSIONS.
    compression: str | None
    # Of the order of the files in each pass; None where they are sorted.
    shuffle_seed: int | None


class Job(NamedTuple):
    """What ``run`` runs. Every path is absolute."""

    name: str
    # Where the tree is built; the person named it, or it is new.
    root: Path
    root_given: bool
    source: Path
    # The script, relative to the source directory.
    program: str
    channels: dict[str, Path]
    # None where channels are folders of files.
    pipe_mode: PipeMode | None
    # As text, which is how the platform sends them.
    hyperparameters: dict[str, str]
    arguments: tuple[str, ...]
    requirements: bool
    hosts: tuple[str, ...]
    # None where the hosts are processes of this machine.
    container: Container | None

    def tree(self, host: str) -> Paths:
        """Where the host's tree is built."""
        return self.tree_below(self.root, host)

    def tree_below(self, root: Path, host: str) -> Paths:
        """The same, with ``root`` in place of the job's own."""
        return Paths(root if len(self.hosts) == 1 else root / host)

    def inside(self, host: str) -> Paths:
        """Where the host itself finds its tree."""
        return self.tree(host) if self.container is None else Paths(Path(contract.BASE_DIR))

    @property
    def model(self) -> Path:
        """One directory for all hosts."""
        return Paths(self.root).model


def job(
    script: str,
    source_dir: str | None,
    channels: Sequence[str],
    hyperparameters: Sequence[str],
    output: str | None,
    requirements: bool,
    arguments: Sequence[str],
    hosts: int | None = None,
    distribution: str | None = None,
    processes_per_host: int | None = None,
    container: Container | None = None,
    input_mode: str | None = None,
    compression: str | None = None,
    shuffle_seed: int | None = None,
) -> Job:
    """The job of a command line's words. Raises UsageError."""
    _check_hosts(hosts, distribution, processes_per_host)
    source, program = _source(script, source_dir)
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(program).stem).strip("-")[:40] or "job"
    name = f"{stem}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    described = Job(
        name=name,
        root=_path(output) if output is not None else _path(RUNS) / name,
        root_given=output is not None,
        source=source,
        program=program,
        channels=_channels(channels),
        pipe_mode=_pipe_mode(channels, input_mode, compression, shuffle_seed),
        # What is said with --hp stands, so that any of the distribution's settings can be given another value.
        hyperparameters={
            **local_hosts.hyperparameters(distribution, processes_per_host),
            **_hyperparameters(hyperparameters),
        },
        arguments=tuple(arguments),
        requirements=requirements,
        hosts=local_hosts.names(1 if hosts is None else hosts, distribution, container is not None),
        container=container,
    )
    _check_apart(described)
    return described


def _path(text: str) -> Path:
    # A shell leaves the "~" of NAME=~/data alone. Path's own way raises where there is no such user.
    return Path(os.path.expanduser(text)).absolute()  # noqa: PTH111


def _real(path: Path) -> Path:
    # Path.resolve() raises RuntimeError for links in a circle.
    return Path(os.path.realpath(path))


def _source(script: str, source_dir: str | None) -> tuple[Path, str]:
    """The source directory and the script's path in it."""
    path = _path(script)
    if source_dir is None:
        source, program = path.parent, path.name
    else:
        source = _path(source_dir)
        if not source.is_dir():
            raise UsageError(f"--source-dir {source_dir!r}: no such directory; give the folder that holds the code")
        program = os.path.normpath(script)
        if Path(script).is_absolute() or program.startswith("../") or not (source / program).exists():
            program = _inside(path, source, script)
    found = source / program
    if not found.is_file():
        what = "a directory" if found.is_dir() else "not a file" if found.exists() else "no such file"
        raise UsageError(f"SCRIPT {script!r}: {what}; give the path of the script that trains, such as train.py")
    if not re.fullmatch(contract.PROGRAM_PATTERN, program):
        raise UsageError(
            f"SCRIPT {program!r}: the platform takes a name of letters, digits and . _ + - / only, without '-' at the "
            "start; rename the file"
        )
    return source, program


def _inside(path: Path, source: Path, script: str) -> str:
    if not path.exists():
        raise UsageError(f"SCRIPT {script!r}: no such file in {str(source)!r}; give its path relative to --source-dir")
    try:
        return str((_real(path.parent) / path.name).relative_to(_real(source)))
    except ValueError as error:
        raise UsageError(
            f"SCRIPT {script!r} is not inside --source-dir {str(source)!r}; name a folder that holds the script"
        ) from error


def _channels(words: Sequence[str]) -> dict[str, Path]:
    channels: dict[str, Path] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not text:
            raise UsageError(f"--channel {word!r}: expected NAME=PATH, such as train=data/train")
        if not _CHANNEL_NAME.fullmatch(name):
            raise UsageError(
                f"--channel {word!r}: {name!r} cannot be a channel's name; use letters, digits and . _ - only, such as "
                "train=data/train"
            )
        if name in channels:
            raise UsageError(f"channel {name!r} is given twice; give each channel one PATH")
        if text.lower().startswith("s3://"):
            raise UsageError(
                f"channel {name!r}: {text!r} is not on this machine; copy it here first "
                "(aws s3 cp --recursive) and give the folder's PATH"
            )
        path = _path(text)
        try:
            path.stat()
        except OSError as error:
            raise UsageError(
                f"channel {name!r}: {text!r}: {error.strerror}; give an existing folder or file"
            ) from error
        channels[name] = path
    return channels


def _pipe_mode(
    channels: Sequence[str], input_mode: str | None, compression: str | None, shuffle_seed: int | None
) -> PipeMode | None:
    if input_mode == PIPE:
        if not channels:
            raise UsageError("--input-mode Pipe: there is no channel to stream; give one with --train or --channel")
        return PipeMode(compression, shuffle_seed)
    if compression is not None:
        raise UsageError(
            f"--compression {compression} has the files of a channel in Pipe mode unzipped, and no others; give "
            "--input-mode Pipe with it"
        )
    if shuffle_seed is not None:
        raise UsageError(
            f"--shuffle-seed {shuffle_seed} is of the order of files in Pipe mode; give --input-mode Pipe with it"
        )
    return None


def _hyperparameters(words: Sequence[str]) -> dict[str, str]:
    hyperparameters: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"--hp {word!r}: expected NAME=VALUE, such as epochs=3")
        if name in hyperparameters:
            raise UsageError(
                f"hyperparameter {name!r} is given twice; give each one VALUE, a list as --hp {name}='[1, 2]'"
            )
        if name in _NOT_GIVEN:
            raise UsageError(f"--hp {name}: this comes from SCRIPT and --source-dir; leave it out")
        hyperparameters[name] = value
    return hyperparameters


def _check_hosts(hosts: int | None, distribution: str | None, processes_per_host: int | None) -> None:
    if hosts is not None and not 1 <= hosts <= local_hosts.MOST_HOSTS:
        raise UsageError(f"--hosts {hosts}: give a number from 1 to {local_hosts.MOST_HOSTS}")
    if processes_per_host is None:
        return
    if distribution != "mpi":
        raise UsageError("--processes-per-host says how many ranks MPI starts; give --distribution mpi with it")
    if processes_per_host < 1:
        raise UsageError(f"--processes-per-host {processes_per_host}: give a number of at least 1")


def _check_apart(described: Job) -> None:
    """Nothing that the job reads may lie where results are written and, by the next run, removed."""
    root = _real(described.root)
    for what, path in (
        ("the source directory", described.source),
        *((f"channel {name!r}", path) for name, path in described.channels.items()),
    ):
        if _real(path).is_relative_to(root):
            raise UsageError(
                f"{what}, {str(path)!r}, lies in the output directory {str(described.root)!r}, whose content is "
                "replaced; give another --output"
            )
