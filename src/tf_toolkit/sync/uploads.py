"""Which files are to be uploaded, which are up, and which could not be."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from tf_toolkit import s3
from tf_toolkit.masking import mask_urls
from tf_toolkit.sync import END_SECONDS

log = logging.getLogger("tf_toolkit")

# Once the script has ended, how long S3 may be out of reach.
_PATIENCE_SECONDS = 60.0
# From an event to the upload, so that a file renamed or written again at once is uploaded once.
_SETTLE_SECONDS = 0.1
# Between looks at every file, which find what no event told of: the kernel's queue was full, no watch was left, or a
# directory was renamed while watchdog began to watch it. What failed is tried again then. They take this share at most.
_SCAN_SECONDS = 5.0
_SCAN_SHARE = 0.01
# Files written twice within one tick of the kernel's clock have the same times; no kernel ticks slower than this.
_CLOCK_TICK_NS = 20_000_000
_COPIES = 5
_FAILURES_NAMED = 50


class _Version(NamedTuple):
    """What changes when a file's content does."""

    inode: int
    size: int
    mtime_ns: int
    # Changes also with a file's name, links and mode.
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Version:
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class _Failure(Exception):
    def __init__(self, cause: str, passing: bool = False) -> None:
        super().__init__(cause)
        self.passing = passing


class Uploads:
    """What is to be uploaded, what is up, and what could not be. No file's content stays in memory."""

    def __init__(self, directory: str, place: s3.S3Address, client: Any) -> None:
        self.directory = directory
        self._place = place
        self._client = client
        self._lock = threading.Lock()
        # Paths in the order of their events, each with the time from which it may be uploaded.
        self._waiting: OrderedDict[str, float] = OrderedDict()
        # The version that is up; None where it cannot be told from one written right after.
        self._up: dict[str, _Version | None] = {}
        self._failures: dict[str, _Failure] = {}
        self._leading_out: set[str] = set()
        self._failing_since: float | None = None
        self._next_scan = 0.0
        self._uploads = 0
        self._bytes = 0

    def note(self, path: str, delay: float = _SETTLE_SECONDS) -> None:
        """Have a file, or what is in a directory, uploaded soon."""
        with self._lock:
            self._waiting.setdefault(path, time.monotonic() + delay)

    def step(self) -> bool:
        """While the job runs: upload the next file, if one is due; whether there may be more to do."""
        path = self._next()
        if path is None:
            return self._scan()
        if _is_directory(path):
            for file in self._changed(path):
                self.note(file, 0.0)
        else:
            self._upload(path, running=True)
        return True

    def finish(self) -> None:
        """When nothing is written any more: upload what is not up yet. Passing failures are tried again for a while."""
        end = time.monotonic() + END_SECONDS
        time.sleep(_CLOCK_TICK_NS / 1e9)
        self._failures.clear()
        self._failing_since = None
        with self._lock:
            waiting = [path for path in self._waiting if not _is_directory(path)]
        files = [*waiting, *self._changed(self.directory)]
        while files:
            for path in files:
                if time.monotonic() > end:
                    self._failures.setdefault(path, _Failure(f"there was no time left after {END_SECONDS:.0f} s"))
                elif self._out_of_reach():
                    self._failures.setdefault(path, _Failure(f"S3 was out of reach for {_PATIENCE_SECONDS:.0f} s"))
                else:
                    self._upload(path, running=False)
            if time.monotonic() > end or self._out_of_reach():
                return
            files = [path for path, failure in self._failures.items() if failure.passing]
            time.sleep(1.0 if files else 0.0)

    def report(self) -> int:
        """Say what was uploaded and what was not; the process's exit status."""
        for path, failure in list(self._failures.items())[:_FAILURES_NAMED]:
            log.error("intermediate output: %s was not uploaded: %s", self._shown(path), failure)
        if len(self._failures) > _FAILURES_NAMED:
            log.error("intermediate output: nor were %d more files", len(self._failures) - _FAILURES_NAMED)
        log.info(
            "intermediate output: %d files in %d uploads, %d bytes, at s3://%s/%s",
            len(self._up),
            self._uploads,
            self._bytes,
            *self._place,
        )
        return 1 if self._failures else 0

    def _next(self) -> str | None:
        now = time.monotonic()
        with self._lock:
            path = next((path for path, due in self._waiting.items() if due <= now), None)
            if path is not None:
                del self._waiting[path]
        return path

    def _scan(self) -> bool:
        started = time.monotonic()
        if started < self._next_scan:
            return False
        for path in self._changed(self.directory):
            self.note(path, 0.0)
        now = time.monotonic()
        self._next_scan = now + max(_SCAN_SECONDS, (now - started) / _SCAN_SHARE)
        return True

    def _changed(self, directory: str) -> list[str]:
        """Files that differ from what is up, oldest change first, without those for which another try is vain."""
        found: list[tuple[int, str]] = []
        for file in self._files(directory):
            with contextlib.suppress(OSError):
                version, up = _Version.of(file.stat()), self._up.get(file.path)
                changed = up is None or up[:3] != version[:3]
                failure = self._failures.get(file.path)
                if file.is_file() and changed and (failure is None or failure.passing):
                    found.append((version.ctime_ns, file.path))
        return [path for _, path in sorted(found)]

    def _files(self, directory: str) -> Iterator[os.DirEntry[str]]:
        """All that is not a directory below one. Not os.walk, which is recursive and ends where the stack does."""
        directories = [directory]
        while directories:
            here = directories.pop()
            try:
                with os.scandir(here) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            directories.append(entry.path)
                        else:
                            yield entry
                self._failures.pop(here, None)
            except FileNotFoundError:
                self._failures.pop(here, None)
            except OSError as error:
                self._failures[here] = _Failure(f"the directory cannot be read: {error.strerror}")

    def _upload(self, path: str, running: bool) -> None:
        try:
            descriptor = self._open(path)
            try:
                self._upload_opened(path, descriptor, running)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            # Deleted, or moved on: then its new name has an event of its own.
            self._failures.pop(path, None)
        except OSError as error:
            self._failed(path, _Failure(error.strerror or str(error)), running)
        except _Failure as failure:
            self._failed(path, failure, running)

    def _failed(self, path: str, failure: _Failure, running: bool) -> None:
        if running and not self._failures:
            log.warning("intermediate output: %s is not uploaded yet: %s", self._shown(path), failure)
        self._failures[path] = failure
        if failure.passing and self._failing_since is None:
            self._failing_since = time.monotonic()

    def _out_of_reach(self) -> bool:
        return self._failing_since is not None and time.monotonic() > self._failing_since + _PATIENCE_SECONDS

    def _open(self, path: str) -> int:
        """A regular file that is in the directory, by itself or through a link; FileNotFoundError for all else."""
        real = os.path.realpath(path)
        if os.path.commonpath([real, self.directory]) != self.directory:
            if path not in self._leading_out:
                log.warning("intermediate output: %s leads out of the directory: not uploaded", self._shown(path))
                self._leading_out.add(path)
            raise FileNotFoundError
        if not stat.S_ISREG(os.lstat(real).st_mode):
            raise FileNotFoundError
        # Not blocking: a FIFO may have come in its place.
        return os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _upload_opened(self, path: str, descriptor: int, running: bool) -> None:
        key = self._key(path)
        for _ in range(_COPIES):
            if running and _open_for_writing(descriptor):
                # Its end is an event of its own.
                return
            version = _Version.of(os.fstat(descriptor))
            settled = time.time_ns() - version.ctime_ns > _CLOCK_TICK_NS
            if self._up.get(path) == version:
                self._failures.pop(path, None)
                return
            # A copy takes time, and only a running job writes.
            copy = self._copy(descriptor, version.size) if running else None
            with copy or contextlib.nullcontext():
                if copy and _Version.of(os.fstat(descriptor)) != version:
                    continue
                try:
                    self._put(copy.fileno() if copy else descriptor, key)
                except _Failure:
                    # S3 refuses what does not have the checksum that was announced.
                    if copy or _Version.of(os.fstat(descriptor)) == version:
                        raise
            if copy or _Version.of(os.fstat(descriptor)) == version:
                self._uploaded(path, version, settled)
                return
        raise _Failure(f"it changed during each of {_COPIES} tries", passing=True)

    def _uploaded(self, path: str, version: _Version, settled: bool) -> None:
        self._up[path] = version if settled else None
        self._uploads += 1
        self._bytes += version.size
        self._failures.pop(path, None)
        self._failing_since = None

    def _copy(self, descriptor: int, size: int) -> IO[bytes] | None:
        """A copy without a name, gone when it is closed; None where it would take the room that the job needs."""
        import shutil
        import tempfile

        directory = Path(self.directory).parent
        room = os.statvfs(directory)
        if room.f_bavail * room.f_frsize < 2 * size:
            return None
        copy = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115
        try:
            os.lseek(descriptor, 0, os.SEEK_SET)
            with open(descriptor, "rb", closefd=False) as source:
                shutil.copyfileobj(source, copy, 1024 * 1024)
            copy.flush()
        except OSError as error:
            copy.close()
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return None
            raise
        return copy

    def _put(self, descriptor: int, key: str) -> None:
        from boto3.exceptions import S3UploadFailedError
        from boto3.s3.transfer import TransferConfig
        from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

        # boto3 opens this name once a part; it stays the same file whatever becomes of its own name.
        name = f"/proc/self/fd/{descriptor}"
        try:
            self._client.upload_file(name, self._place.bucket, key, Config=TransferConfig(max_concurrency=4))
        except S3UploadFailedError as error:
            # boto3 hides the service's answer behind an error of its own.
            answer = error.__context__ if isinstance(error.__context__, ClientError) else None
            status = answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) if answer else 0
            raise _Failure(mask_urls(str(answer or error)), status >= 500 or status == 429) from error
        except BotoCoreError as error:
            raise _Failure(mask_urls(str(error)), isinstance(error, (ConnectionError, HTTPClientError))) from error

    def _key(self, path: str) -> str:
        relative = os.path.relpath(path, self.directory)
        try:
            # By way of the bytes: what the locale says of names does not matter.
            return "/".join(filter(None, (self._place.key, os.fsencode(relative).decode("utf-8"))))
        except UnicodeDecodeError as error:
            raise _Failure("its name is not UTF-8, which the name of an S3 object must be") from error

    def _shown(self, path: str) -> str:
        relative = os.path.relpath(path, self.directory)
        return relative if relative.isprintable() else ascii(relative)


def _is_directory(path: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISDIR(os.lstat(path).st_mode)
    return False


def _open_for_writing(descriptor: int) -> bool:
    """Whether anybody has the file open for writing; False where the file system cannot say.

    A read lease is granted only if nobody has (Linux manual, fcntl(2), "Leases"). It is handed back at once; a writer
    that comes meanwhile waits that long.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
