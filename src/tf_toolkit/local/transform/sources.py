"""The files that are transformed: of this machine, or objects of S3, which are fetched one at a time."""

from __future__ import annotations

import contextlib
import gzip
import io
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Callable, NamedTuple

from tf_toolkit import s3
from tf_toolkit.config import region
from tf_toolkit.errors import SourceError
from tf_toolkit.local.channel_files import GZIP_MAGIC, names_below
from tf_toolkit.local.job import UsageError
from tf_toolkit.local.transform import s3_objects
from tf_toolkit.local.transform.options import Options
from tf_toolkit.local.transform.records import Fault

# In a folder of outputs: how they were made. It is no input of another transform.
MARKER = ".tf-toolkit-transform"


class Source(NamedTuple):
    """One file."""

    # What its output is called, but for the end.
    name: str
    # As messages name it.
    where: str
    # In bytes, as it is stored.
    size: int
    # In seconds since the epoch.
    changed: float
    # A copy of it on this machine, or itself.
    fetched: Callable[[], contextlib.AbstractContextManager[Path]]


class Opened(NamedTuple):
    """A file that is being read."""

    stream: io.BufferedIOBase
    # How many bytes of what is stored have been read.
    position: Callable[[], int]


def find(options: Options, environ: Mapping[str, str]) -> list[Source]:
    """All files, sorted by name as S3 lists them. Raises UsageError, and SourceError for what S3 refuses."""
    if s3_objects.is_address(options.input):
        sources = list(_objects(options.input, environ))
    else:
        sources = list(_files(Path(options.input).absolute(), options.input))
    if not sources:
        raise UsageError(f"--input {options.input!r}: there is no file; give one, or a folder that has some")
    names = [source.name for source in sources]
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"--input {options.input!r}: two objects would have the output {twice}.out; end it with a /")
    return sources


@contextlib.contextmanager
def opened(source: Source, zipped: bool) -> Iterator[Opened]:
    """The file's content. Raises Fault; within, what reading it raises becomes one."""
    try:
        with source.fetched() as path, path.open("rb") as file:
            if not zipped:
                yield Opened(file, file.tell)
                return
            start = file.read(len(GZIP_MAGIC))
            file.seek(0)
            if start not in (b"", GZIP_MAGIC):
                raise Fault("this is no gzip stream; with --compression Gzip all files are")
            with gzip.open(file) as unzipped:
                yield Opened(unzipped, file.tell)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Fault(f"this is no whole gzip stream: {error}; compress it again") from error
    except SourceError as error:
        raise Fault(str(error)) from error
    except OSError as error:
        raise Fault(f"it cannot be read: {error.strerror or error}") from error


def _files(top: Path, given: str) -> Iterator[Source]:
    if not top.exists():
        raise UsageError(f"--input {given!r}: no such file or folder; give one of this machine, or s3://BUCKET/PREFIX")
    for name in names_below(top, f"--input {given!r}"):
        if name == MARKER:
            continue
        path = top / name
        status = path.stat()
        shown = f"{given.rstrip('/')}/{name}" if name else given
        yield Source(name or top.name, shown, status.st_size, status.st_mtime, _itself(path))


def _itself(path: Path) -> Callable[[], contextlib.AbstractContextManager[Path]]:
    return lambda: contextlib.nullcontext(path)


def _objects(url: str, environ: Mapping[str, str]) -> Iterator[Source]:
    """All whose key begins so, which is what the platform takes."""
    bucket, prefix = s3.parse(url).bucket, s3_objects.prefix(url)
    for found in s3_objects.listed(url, environ):
        # What programs make to show folders.
        if found.key.endswith("/"):
            continue
        where = f"s3://{bucket}/{found.key}"
        if found.key.startswith("/"):
            # An address with two slashes is one with one.
            raise UsageError(f"{where}: a key that begins with a slash cannot be fetched; rename the object")
        folder = prefix if prefix.endswith("/") else f"{prefix}/"
        if not found.key.startswith(folder):
            folder = prefix[: prefix.rfind("/") + 1]
        yield Source(found.key[len(folder) :], where, found.size, found.changed, _fetching(where, environ))


def _fetching(url: str, environ: Mapping[str, str]) -> Callable[[], contextlib.AbstractContextManager[Path]]:
    @contextlib.contextmanager
    def fetched() -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="tf-toolkit-") as folder:
            path = Path(folder) / "object"
            s3.download(url, path, region(environ), environ)
            yield path

    return fetched
