"""Where outputs go: each comes to be whole, and under its name, or not at all.

With them stands how they were made, so that a later run knows whether they are what it would make: in a hidden file of
their folder, or in the metadata of each object of S3.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tf_toolkit import s3, signals
from tf_toolkit.local.job import UsageError
from tf_toolkit.local.transform import s3_objects
from tf_toolkit.local.transform.sources import MARKER, Source

_SUFFIX = ".out"
_METADATA = "tf-toolkit-transform"
_REMEDY = "remove the outputs that are there, or give another --output"

Settings = Mapping[str, str]


class Output(ABC):
    """One that is being written."""

    def __init__(self, file: IO[bytes], place: Path) -> None:
        self._file = file
        self._place = place

    def write(self, data: bytes) -> None:
        """Raises OSError."""
        with self._named():
            self._file.write(data)

    @abstractmethod
    def finish(self) -> None:
        """It is whole. Raises OSError, and SourceError where S3 refuses it."""

    def discard(self) -> None:
        """It is not, and goes."""
        # What is not written yet may have no room.
        with contextlib.suppress(OSError):
            self._file.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Have what the system says name the place, as for a full disk it does not."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or str(self._place)
            raise


class Outputs(ABC):
    """All of a run."""

    def left(self, sources: Sequence[Source]) -> frozenset[str]:
        """Names of those whose outputs are there, newer than they are, and made as this run would make them.

        Raises UsageError where outputs are there that were made in another way, and SourceError.
        """
        return frozenset(source.name for source in sources if self._is_done(source))

    @abstractmethod
    def _is_done(self, source: Source) -> bool: ...

    @abstractmethod
    def open(self, name: str) -> Output:
        """A new one, for the source of that name. Raises OSError."""


@contextlib.contextmanager
def claimed(given: str, settings: Settings, environ: Mapping[str, str]) -> Iterator[Outputs]:
    """The outputs at a place, which is this run's alone if it is a folder. Raises UsageError, and SourceError."""
    if s3_objects.is_address(given):
        with signals.interruptible():
            place = _Objects(given, settings, environ)
        yield place
        return
    root = Path(given).absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        marker = os.open(root / MARKER, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(f"{error.filename!r} cannot be made: {error.strerror}; give another --output") from error
    with os.fdopen(marker, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"--output {given!r} is in use by another transform; give another folder") from error
        yield _Folder(root, given, settings, file)


def check_apart(source: str, output: str) -> None:
    """Raises UsageError where outputs would be among the inputs of the next run."""
    if s3_objects.is_address(source) != s3_objects.is_address(output):
        return
    if s3_objects.is_address(source):
        among = s3.parse(source).bucket == s3.parse(output).bucket and f"{s3.parse(output).key}/".startswith(
            s3_objects.prefix(source)
        )
    else:
        real = Path(os.path.realpath(source))
        among = real.is_dir() and Path(os.path.realpath(output)).is_relative_to(real)
    if among:
        raise UsageError(f"--output {output!r} lies in --input {source!r}, of which all is transformed; give another")


class _Folder(Outputs):
    def __init__(self, root: Path, given: str, settings: Settings, marker: IO[str]) -> None:
        """The lock on the marker is ours."""
        self._root = root
        text = marker.read()
        made = _loaded(text)
        if made == settings:
            return
        if any(root.rglob(f"*{_SUFFIX}")):
            raise _other_outputs(f"--output {given!r}", made, settings)
        marker.seek(0)
        marker.truncate()
        json.dump(settings, marker)
        marker.flush()

    def open(self, name: str) -> Output:
        return _File(self._path(name))

    def _is_done(self, source: Source) -> bool:
        path = self._path(source.name)
        return path.is_file() and path.stat().st_mtime >= source.changed

    def _path(self, name: str) -> Path:
        # Keys of S3 may hold anything, and must not lead out of the folder.
        if {"", ".", ".."} & {*name.split("/")} or "\0" in name:
            raise UsageError(
                f"--input has an object {name!r}, which can be no file's name; give an --output in S3, or rename it"
            )
        return self._root / f"{name}{_SUFFIX}"


class _File(Output):
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        super().__init__(self._part.open("wb"), path)

    def finish(self) -> None:
        with self._named():
            self._file.close()
        self._part.rename(self._path)

    def discard(self) -> None:
        super().discard()
        self._part.unlink(missing_ok=True)


class _Objects(Outputs):
    def __init__(self, url: str, settings: Settings, environ: Mapping[str, str]) -> None:
        bucket, key = s3.parse(url)
        self._url = f"s3://{bucket}/{key}/" if key else f"s3://{bucket}/"
        self._settings = settings
        self._environ = environ
        # Also a place where nothing can be written is found out about before anything is sent.
        self._found = {f"s3://{bucket}/{found.key}": found.changed for found in s3_objects.listed(self._url, environ)}

    def open(self, name: str) -> Output:
        return _Upload(self._address(name), self._settings, self._environ)

    def _is_done(self, source: Source) -> bool:
        address = self._address(source.name)
        if address not in self._found:
            return False
        made = _loaded(s3_objects.metadata(address, self._environ).get(_METADATA, ""))
        if made != self._settings:
            raise _other_outputs(address, made, self._settings)
        return self._found[address] >= source.changed

    def _address(self, name: str) -> str:
        return f"{self._url}{name}{_SUFFIX}"


class _Upload(Output):
    """A file without a name until it is whole."""

    def __init__(self, address: str, settings: Settings, environ: Mapping[str, str]) -> None:
        self._address = address
        self._metadata = {_METADATA: json.dumps(settings)}
        self._environ = environ
        super().__init__(tempfile.TemporaryFile(), Path(tempfile.gettempdir()))  # noqa: SIM115

    def finish(self) -> None:
        with self._named():
            self._file.seek(0)
        s3_objects.upload(self._file, self._address, self._metadata, self._environ)
        self._file.close()


def _loaded(text: str) -> Any:
    """How outputs were made; None where that is not known."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _other_outputs(what: str, made: Any, settings: Settings) -> UsageError:
    if not isinstance(made, dict):
        return UsageError(f"{what}: outputs are there, and it is not known how they were made; {_REMEDY}")
    differing = ", ".join(name for name in settings if made.get(name) != settings[name])
    return UsageError(f"{what}: outputs are there that were made with another {differing}; {_REMEDY}")
