"""What goes into a job's containers, and what comes out: the code and the configuration, the model and the output."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tf_toolkit import contract, signals
from tf_toolkit.archive import add_members
from tf_toolkit.contract import Paths
from tf_toolkit.errors import Stopped
from tf_toolkit.local.containers.client import DockerError, Missing
from tf_toolkit.local.containers.daemon import Daemon
from tf_toolkit.local.job import Job, UsageError
from tf_toolkit.local.terminal import say
from tf_toolkit.local.tree import MARKER, documents
from tf_toolkit.tree import Tree, stays_inside

_TOP = Paths(Path("opt/ml"))
_CODE = str(_TOP.code)
# Whoever the image's user is may read the code, and write wherever scripts do.
_DIRECTORY_MODE = 0o777
_READABLE = 0o644
_EXECUTABLE = 0o111
# More than code has: a person's whole home directory, or data that belongs into a channel.
_MOST_CODE = 1 << 30
_LEFT_OUT = frozenset({"__pycache__", ".git"})
# In the top directory of another run's results, and of a virtual environment, whose programs are this machine's.
_MARKERS = (MARKER, "pyvenv.cfg")
_BLOCK = 512
_PIECE = 64 * 1024


@contextlib.contextmanager
def packed_code(job: Job) -> Iterator[IO[bytes]]:
    """The source directory as a tar. Raises UsageError and OSError."""
    with tempfile.TemporaryFile(prefix="tf-toolkit-code-") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
            _Code(job, tar).add(job.source, _CODE, frozenset())
        yield file


class _Code:
    """Fills a tar with the source directory, without what the job does not need from there."""

    def __init__(self, job: Job, tar: tarfile.TarFile) -> None:
        self._job = job
        self._tar = tar
        self._top = os.path.realpath(job.source)
        # Folders of channels are mounted; what the run writes is not read.
        folders = (path for path in job.channels.values() if path.is_dir())
        self._omitted = {os.path.realpath(path) for path in (job.root, *folders)} - {self._top}
        self._size = 0

    def add(self, path: Path, name: str, above: frozenset[str]) -> None:
        """Add what is at ``path``; ``above`` are the directories that it lies in."""
        if path.is_symlink():
            target = os.fspath(path.readlink())
            if stays_inside(name.removeprefix(f"{_CODE}/"), target):
                self._add_link(name, target)
                return
        real = os.path.realpath(path)
        if real in self._omitted or real in above:
            return
        if path.is_dir():
            if name != _CODE and (path.name in _LEFT_OUT or any((path / marker).exists() for marker in _MARKERS)):
                return
            self._tar.addfile(_directory(name))
            for entry in sorted(path.iterdir()):
                self.add(entry, f"{name}/{entry.name}", above | {real})
        elif path.is_file():
            self._add_file(path, name)

    def _add_link(self, name: str, target: str) -> None:
        link = tarfile.TarInfo(name)
        link.type, link.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(link)

    def _add_file(self, path: Path, name: str) -> None:
        with path.open("rb") as content:
            status = os.fstat(content.fileno())
            self._size += status.st_size
            if self._size > _MOST_CODE:
                raise UsageError(
                    f"the source directory {str(self._job.source)!r} holds more than 1 GiB besides the channels, and "
                    "goes into each container; name a folder of code alone in --source-dir, and give data as a channel"
                )
            info = tarfile.TarInfo(name)
            info.size, info.mtime = status.st_size, int(status.st_mtime)
            info.mode = _READABLE | (_EXECUTABLE if status.st_mode & stat.S_IXUSR else 0)
            self._tar.addfile(info, content)


def _directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, _DIRECTORY_MODE
    return info


def configuration(job: Job, host: str) -> IO[bytes]:
    """A host's tree but for the code, as a tar."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        # The directory of FIFOs is a mount.
        data = (_TOP.input_data,) if job.pipe_mode is None else ()
        for path in (_TOP.root, _TOP.input, _TOP.input_config, *data, _TOP.model, _TOP.output, _TOP.output_data):
            tar.addfile(_directory(str(path)))
        for name, content in documents(job, host).items():
            text = json.dumps(content, indent=2).encode("ascii")
            info = tarfile.TarInfo(str(_TOP.input_config / name))
            info.size, info.mode = len(text), _READABLE
            tar.addfile(info, io.BytesIO(text))
    return file


def copy_results(job: Job, daemon: Daemon, containers: dict[str, str]) -> None:
    """Copy the model and each host's output into the job's root, as the person's own. Raises DockerError and OSError.

    What leads out of them, and what is no file, directory or link, stays behind.
    """
    for channel, path in job.channels.items():
        # The daemon would say that there are no results either.
        if not path.exists():
            raise DockerError(
                f"channel {channel!r}: {str(path)!r} is gone, and without its mounts a container gives nothing out; "
                "make it anew, empty"
            )
    inside = Paths(Path(contract.BASE_DIR))
    stops = _Stops()
    job.model.mkdir(parents=True)
    # Any host's will do, for it is one.
    for container in containers.values():
        with contextlib.suppress(Missing):
            _copy(daemon, container, inside.model, job.model, stops)
            break
    for host, container in containers.items():
        with contextlib.suppress(Missing):
            _copy(daemon, container, inside.output, job.tree(host).output, stops)


class _Stops:
    """Stop signals while results are copied. One may be meant for the script, which has just ended; two are not."""

    def __init__(self) -> None:
        self._asked = False

    def heed(self) -> None:
        for number in signals.taken():
            if number in signals.STOP and self._asked:
                say("stopped: the results are not whole")
                raise Stopped(number)
            if number in signals.STOP:
                self._asked = True
                say("the job has ended, and its results are being copied; ask once more to leave them behind")


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, pieces: Iterator[bytes], stops: _Stops) -> None:
        self._pieces = pieces
        self._stops = stops
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            self._stops.heed()
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _copy(daemon: Daemon, container: str, path: Path, directory: Path, stops: _Stops) -> None:
    """Copy a directory of a container. Raises Missing where there is none."""
    with io.BufferedReader(_Pieces(daemon.get(container, path), stops), _PIECE) as stream:
        # Nothing is made for what is not there.
        stream.peek(1)
        directory.mkdir(parents=True, exist_ok=True)
        tree = Tree(directory)
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                add_members(tar, tree)
                _check_end(tar)
        except (tarfile.TarError, EOFError) as error:
            raise DockerError(f"{path} did not come whole out of the container: {error}") from error
        tree.finish(str(path))


def _check_end(tar: tarfile.TarFile) -> None:
    """Two empty blocks end a tar, and tarfile has read the first; it would take a tar that is cut off for whole."""
    assert tar.fileobj is not None
    if tar.fileobj.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError("no mark at its end")
