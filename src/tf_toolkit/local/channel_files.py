"""What a pass over a channel in Pipe mode is made of: the channel's files, in an order."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tf_toolkit.errors import ToolkitError
from tf_toolkit.local.job import Job, UsageError

GZIP_MAGIC = b"\x1f\x8b"


class FeedError(ToolkitError):
    """A channel's data cannot be read to its end."""

    fault = "job"
    # As of any file that the system denies.
    exit_code = 1


class ChannelFiles(NamedTuple):
    """The files of a channel."""

    channel: str
    top: Path
    # Relative to the top, sorted as S3 lists them; of a channel that is one file the empty name.
    names: tuple[str, ...]
    zipped: bool
    seed: int | None

    def in_order(self, epoch: int) -> list[Path]:
        """The files as they come in this pass: the same for the same seed, on any machine."""
        names = list(self.names)
        if self.seed is not None:
            names.sort(key=lambda name: hashlib.sha256(os.fsencode(f"{self.seed}/{epoch}/{name}")).digest())
        return [self.top / name for name in names]

    @contextlib.contextmanager
    def reading(self, path: Path, epoch: int) -> Iterator[None]:
        """Within, a fault of the file raises FeedError; BrokenPipeError is its reader's."""
        where = f"channel {self.channel!r}, epoch {epoch}: {str(path)!r}"
        try:
            yield
        except BrokenPipeError:
            raise
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise FeedError(f"{where} is no whole gzip stream: {error}; compress it again") from error
        except OSError as error:
            raise FeedError(f"{where}: {error.strerror}; leave the data as it is while a job reads it") from error


def channels_in_pipe_mode(job: Job) -> list[ChannelFiles]:
    """The channels that are to be fed, and their files, each of which can be opened. Raises UsageError."""
    if job.pipe_mode is None:
        return []
    zipped = job.pipe_mode.compression is not None
    found = []
    for channel, path in job.channels.items():
        names = names_below(path, f"channel {channel!r}")
        if not names:
            raise UsageError(f"channel {channel!r}: there is no file in {str(path)!r}; a pass would have no data")
        for name in names:
            _check(channel, path / name, zipped)
        found.append(ChannelFiles(channel, path, tuple(names), zipped, job.pipe_mode.shuffle_seed))
    return found


def names_below(top: Path, what: str) -> list[str]:
    """Names of all files in a folder and below, relative to it, sorted as S3 lists them; of a file the empty name.

    Raises UsageError, which begins with ``what`` the folder is.
    """
    if not top.is_dir():
        return [""]
    try:
        names = list(_files(what, top, "", frozenset()))
    except OSError as error:
        raise UsageError(f"{what}: {error.filename!r}: {error.strerror}; make it readable") from error
    return sorted(names, key=os.fsencode)


def _files(what: str, top: Path, folder: str, above: frozenset[str]) -> Iterator[str]:
    """Names of the files in a folder and below; ``above`` are the folders that it lies in, for links may lead back."""
    real = os.path.realpath(top / folder)
    if real in above:
        return
    for entry in os.scandir(top / folder):
        name = f"{folder}{entry.name}"
        if entry.is_dir():
            yield from _files(what, top, f"{name}/", above | {real})
        elif entry.is_file():
            yield name
        else:
            raise UsageError(f"{what}: {str(top / name)!r} is neither a file nor a folder; take it out of there")


def _check(channel: str, path: Path, zipped: bool) -> None:
    """What can be known of a file before a job waits for it."""
    try:
        with path.open("rb", buffering=0) as file:
            start = file.read(len(GZIP_MAGIC)) if zipped else GZIP_MAGIC
    except OSError as error:
        raise UsageError(f"channel {channel!r}: {str(path)!r}: {error.strerror}; make it readable") from error
    if start != GZIP_MAGIC:
        raise UsageError(
            f"channel {channel!r}: {str(path)!r} is no gzip stream; with --compression Gzip all files of all channels "
            "are, so compress it, or leave the option out"
        )
