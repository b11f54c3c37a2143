"""A channel in Pipe mode: its configuration, and its FIFOs, of which each iterator gets the next.

The number of the next FIFO stands in a file, so that several processes, and a script that is started again, go on where
others were.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tf_toolkit import contract, pipes

log = logging.getLogger("tf_toolkit.pipe_mode")

# How often is looked for a FIFO that is not there, and for how long. The platform makes the next one when the one
# before is read.
_LOOK_SECONDS = 0.02
_SAY_SECONDS = 60.0
WAIT_SECONDS = 600.0


class PipeModeDatasetException(Exception):
    """The channel is not there, is not in Pipe mode, or is asked for what it cannot do."""


class ChannelError(Exception):
    """A pass over the channel cannot begin."""


class Opened(NamedTuple):
    """One pass over the channel's data."""

    descriptor: int
    epoch: int


class Channel(NamedTuple):
    """A channel, and where its FIFOs and its state lie."""

    name: str
    pipe_dir: Path
    state_dir: Path

    def path(self, epoch: int) -> Path:
        """The FIFO of a pass."""
        return self.pipe_dir / f"{self.name}_{epoch}"

    def open(self) -> Iterator[Opened | None]:
        """Open the next FIFO; None as long as it is waited for. The descriptor does not block, and is the caller's.

        Raises ChannelError when it does not come, or is none.
        """
        with self._turn() as turns:
            for has_turn in turns:
                if has_turn:
                    break
                yield None
            epoch = self._next_epoch()
            for descriptor in _opened(self.path(epoch), self.name, epoch):
                if descriptor is not None:
                    break
                yield None
            assert descriptor is not None
            # Not before: whoever is ended while it waits, and starts again, waits for the same one.
            self._state.write_text(str(epoch + 1))
        yield Opened(descriptor, epoch)

    @property
    def _state(self) -> Path:
        return self.state_dir / f".{self.name}-pipe_mode-state"

    @contextlib.contextmanager
    def _turn(self) -> Iterator[Iterator[bool]]:
        """Whether this iterator is the one that may take a number, asked again and again."""
        lock = os.open(self.state_dir / f".{self.name}-pipe_mode-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            yield _locked(lock)
        finally:
            os.close(lock)

    def _next_epoch(self) -> int:
        try:
            text = self._state.read_text()
        except FileNotFoundError:
            return 0
        if not text.strip().isdecimal():
            raise ChannelError(f"{self._state} holds {text[:40]!r}, not the number of the next pass; remove it")
        return int(text)


def pipe_mode_channel(name: str, config_dir: Path, pipe_dir: Path, state_dir: Path) -> Channel:
    """The channel, once it is found to be in Pipe mode; makes ``state_dir``. Raises PipeModeDatasetException."""
    file = config_dir / contract.INPUT_DATA_CONFIG_FILE
    try:
        channels = json.loads(file.read_bytes())
        modes = {key: str(value.get(contract.INPUT_MODE, "File")) for key, value in channels.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise PipeModeDatasetException(
            f"{file}: {error}; it has the job's channels, name: {{{contract.INPUT_MODE!r}: ...}}"
        ) from error
    if name not in modes:
        known = ", ".join(sorted(modes)) or "none"
        raise PipeModeDatasetException(f"there is no channel {name!r} in {file}, but: {known}")
    if modes[name].lower() != "pipe":
        raise PipeModeDatasetException(
            f"channel {name!r} is in {modes[name]} mode, says {file}: ask for input_mode='Pipe', or read its files"
        )
    state_dir.mkdir(parents=True, exist_ok=True)
    return Channel(name, pipe_dir, state_dir)


def _locked(lock: int) -> Iterator[bool]:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOOK_SECONDS)
            yield False
        else:
            yield True


def _opened(path: Path, channel: str, epoch: int) -> Iterator[int | None]:
    """A descriptor for the FIFO, as soon as it is there; until then None, again and again."""
    started = said = time.monotonic()
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            break
        except FileNotFoundError:
            now = time.monotonic()
            if now - started > WAIT_SECONDS:
                raise ChannelError(
                    f"channel {channel!r}, epoch {epoch}: {path} has not come in {WAIT_SECONDS:.0f} s; is it in Pipe "
                    "mode, and is there a pass more over its data?"
                ) from None
            if now - said > _SAY_SECONDS:
                log.warning("channel %r, epoch %d: waiting for %s", channel, epoch, path)
                said = now
            time.sleep(_LOOK_SECONDS)
            yield None
        except OSError as error:
            raise ChannelError(f"channel {channel!r}, epoch {epoch}: {path}: {error.strerror}") from error
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ChannelError(f"channel {channel!r}, epoch {epoch}: {path} is a directory, not a FIFO")
    pipes.widen(descriptor, pipes.LARGEST)
    yield descriptor
