"""Feeds channels in Pipe mode, as the platform does: a FIFO for each pass over a channel's files, one after another.

A thread for each host and channel waits until a FIFO is opened, makes the next, and writes all files into the first. A
file that fails keeps the FIFO open, so that nobody takes it for a pass that has ended, and ends the job.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import itertools
import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

from tf_toolkit import pipes, signals
from tf_toolkit.local.channel_files import ChannelFiles, FeedError, channels_in_pipe_mode
from tf_toolkit.local.job import Job

# Whoever the user of a container is may read the FIFOs of a channel.
_DIRECTORY_MODE = 0o755
_FIFO_MODE = 0o666
# For threads to end when the job has; only a file system that does not answer keeps one longer.
_END_SECONDS = 5.0


class Feeder:
    """The channels in Pipe mode of a job, if it has any. Raises UsageError where their data cannot be fed."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._channels = channels_in_pipe_mode(job)
        # The first that kept a pass from its end; the job is ended then.
        self.error: FeedError | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def feeding(self) -> Iterator[None]:
        """Within, the channels of each host have their FIFOs, in the host's tree. Raises OSError."""
        feeds: list[_Feed] = []
        over = threading.Event()
        try:
            for host in self._job.hosts if self._channels else ():
                directory = self._job.tree(host).input_data
                directory.mkdir(parents=True, exist_ok=True)
                directory.chmod(_DIRECTORY_MODE)
                for channel in self._channels:
                    feeds.append(_Feed(self, channel, directory, over))
            for feed in feeds:
                feed.start()
            yield
        finally:
            over.set()
            for feed in feeds:
                feed.end()

    def failed(self, error: FeedError) -> None:
        """From another thread: end the job."""
        with self._lock:
            if self.error is None:
                self.error = error
                signals.interrupt(error)


class _Fifo:
    """A FIFO of the file system, held so that it can be opened whatever becomes of its name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Under another name until its mode is right, for readers look for this one.
        new = path.with_name(f".{path.name}.new")
        os.mkfifo(new)
        new.chmod(_FIFO_MODE)
        self._held = os.open(new, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        new.rename(path)

    def open(self, flags: int) -> int:
        return os.open(f"/proc/self/fd/{self._held}", flags | os.O_CLOEXEC)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()

    def close(self) -> None:
        os.close(self._held)


class _Feed(threading.Thread):
    """One channel of one host, pass after pass, from the moment that it is made."""

    def __init__(self, feeder: Feeder, files: ChannelFiles, directory: Path, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._feeder = feeder
        self._files = files
        self._directory = directory
        self._over = over
        # Held while the first of these changes.
        self._lock = threading.Lock()
        # The one that is waited for or written to, and the next.
        self._fifos = [self._fifo(0)]

    def _fifo(self, epoch: int) -> _Fifo:
        return _Fifo(self._directory / f"{self._files.channel}_{epoch}")

    def run(self) -> None:
        for epoch in itertools.count():
            if self._over.is_set():
                return
            # Waits for a reader.
            descriptor = self._fifos[0].open(os.O_WRONLY)
            try:
                self._make_next(epoch + 1)
                with contextlib.suppress(BrokenPipeError):
                    self._write(_Pipe(descriptor, self._over), epoch)
                self._remove_first()
            except FeedError as error:
                self._feeder.failed(error)
                self._over.wait()
                return
            except _Over:
                return
            finally:
                # Its reader sees the end not before the name is gone, which thus never leads to a pass that is over.
                os.close(descriptor)

    def _make_next(self, epoch: int) -> None:
        try:
            self._fifos.append(self._fifo(epoch))
        except OSError as error:
            raise FeedError(
                f"channel {self._files.channel!r}: no FIFO for epoch {epoch}: {error.strerror}: {str(error.filename)!r}"
            ) from error

    def _remove_first(self) -> None:
        with self._lock:
            done = self._fifos.pop(0)
            done.remove()
            done.close()

    def _write(self, pipe: _Pipe, epoch: int) -> None:
        for path in self._files.in_order(epoch):
            with self._files.reading(path, epoch):
                if self._files.zipped:
                    with gzip.open(path) as unzipped:
                        while piece := unzipped.read(pipes.LARGEST):
                            pipe.write(piece)
                else:
                    with path.open("rb", buffering=0) as file:
                        pipe.send(file.fileno())

    def end(self) -> None:
        """Let go of the readers, and remove the FIFOs, once `over` is set."""
        if self.is_alive():
            # A reader, for which an `open` that waits comes back; and room, for which a `write` does.
            with self._lock:
                reader = self._fifos[0].open(os.O_RDONLY | os.O_NONBLOCK)
            with contextlib.suppress(BlockingIOError):
                os.read(reader, pipes.LARGEST)
            self.join(_END_SECONDS)
            os.close(reader)
        for fifo in self._fifos:
            fifo.remove()
            if not self.is_alive():
                fifo.close()


class _Over(Exception):
    """The job has ended."""


class _Pipe:
    """The writing end of a FIFO. Raises BrokenPipeError when its reader has gone, and _Over when the job has ended."""

    def __init__(self, descriptor: int, over: threading.Event) -> None:
        self._descriptor = descriptor
        self._over = over
        os.set_blocking(descriptor, False)
        pipes.widen(descriptor, pipes.LARGEST)
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)

    def send(self, file: int) -> None:
        """Write a file, whose pages the kernel puts into the pipe without copying them."""
        while True:
            self._check()
            try:
                if not os.sendfile(self._descriptor, file, None, pipes.LARGEST):
                    return
            except BlockingIOError:
                self._room.poll()
            except OSError as error:
                # A file system that cannot do so.
                if error.errno != errno.EINVAL:
                    raise
                break
        while piece := os.read(file, pipes.LARGEST):
            self.write(piece)

    def write(self, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            self._check()
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                self._room.poll()

    def _check(self) -> None:
        if self._over.is_set():
            raise _Over
