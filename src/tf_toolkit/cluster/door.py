"""The door: where a launcher listens to what Open MPI starts for it on its own host, rsh.py and rank.py.

A Unix-domain socket in a directory that only this user may enter, so whoever comes in is of this job.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tf_toolkit import frames
from tf_toolkit.contract import SIGNAL_BASE
from tf_toolkit.errors import ToolkitError
from tf_toolkit.frames import Message

log = logging.getLogger("tf_toolkit")

_PIECE = 64 * 1024


class RankEnd(NamedTuple):
    """How the script of one rank ended that did not end well."""

    rank: int
    status: int
    signal_number: int | None
    stderr: bytes
    # On this host's monotonic clock.
    began: float
    # It was told to end before.
    told: bool


class Door:
    """Served by the channel's thread; what the launcher asks of it may come from any."""

    def __init__(
        self, path: Path, rank_command: Callable[[], tuple[tuple[str, ...], str]], host_of_node: Callable[[str], str]
    ) -> None:
        self.path = path
        self._rank_command = rank_command
        self._host_of_node = host_of_node
        self._lock = threading.Lock()
        self._visitors: dict[socket.socket, _Visitor] = {}
        self._ends: list[RankEnd] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.bind(str(path))
        self._socket.listen(256)
        self._socket.setblocking(False)
        self._numbers = 0
        self._post: Callable[[Message], None] = lambda message: None
        self._wake: Callable[[], None] = lambda: None
        self._selector: selectors.BaseSelector | None = None

    def attach(
        self, selector: selectors.BaseSelector, post: Callable[[Message], None], wake: Callable[[], None]
    ) -> None:
        """Be served by ``selector``; ``post`` takes what is for another host, ``wake`` tells the launcher of news."""
        self._selector = selector
        self._post = post
        self._wake = wake
        selector.register(self._socket, selectors.EVENT_READ, self._accept)

    # What the launcher asks.

    def dismiss(self) -> None:
        """Let every rank end."""
        with self._lock:
            for visitor in self._visitors.values():
                if visitor.rank is not None:
                    visitor.say({"type": "leave"})

    def signal(self, number: int) -> None:
        """Pass a signal on to every rank's script."""
        with self._lock:
            for visitor in self._visitors.values():
                if visitor.running:
                    visitor.say({"type": "signal", "number": number})

    @property
    def running(self) -> int:
        """How many ranks' scripts are running."""
        with self._lock:
            return sum(visitor.running for visitor in self._visitors.values())

    def ends(self) -> list[RankEnd]:
        """The ranks that have failed since this was last asked."""
        with self._lock:
            ends, self._ends = self._ends, []
            return ends

    def daemon_ended(self, number: int, status: int) -> None:
        """Answer the rsh that asked for a daemon: it has ended."""
        with self._lock:
            for visitor in self._visitors.values():
                if visitor.number == number and visitor.rank is None:
                    visitor.say({"type": "ended", "status": status})

    # What comes in.

    def _accept(self) -> None:
        assert self._selector is not None
        with contextlib.suppress(OSError):
            connection, _ = self._socket.accept()
            connection.setblocking(True)
            with self._lock:
                self._numbers += 1
                visitor = _Visitor(connection, self._numbers)
                self._visitors[connection] = visitor
            self._selector.register(connection, selectors.EVENT_READ, lambda: self._read(visitor))

    def _read(self, visitor: _Visitor) -> None:
        try:
            messages = visitor.receive()
        except (OSError, ValueError):
            messages = None
        if messages is None:
            self._leave(visitor)
            return
        for message in messages:
            self._said(visitor, message)

    def _said(self, visitor: _Visitor, message: Message) -> None:
        kind = message.get("type")
        if kind == "daemon":
            self._ask_for_daemon(visitor, message)
        elif kind == "rank":
            argv, cwd = self._rank_command()
            with self._lock:
                visitor.rank, visitor.running = int(message["rank"]), True
                visitor.say({"type": "command", "argv": list(argv), "cwd": cwd})
        elif kind == "ended" and visitor.rank is not None and message["status"] == 0:
            with self._lock:
                visitor.running = False
            self._wake()
        elif kind == "ended" and visitor.rank is not None:
            end = RankEnd(
                rank=visitor.rank,
                status=int(message["status"]),
                signal_number=message.get("signal"),
                stderr=base64.b64decode(message.get("stderr", "")),
                began=time.monotonic() - float(message.get("age", 0.0)),
                told=bool(message.get("told")),
            )
            self._ended(visitor, end)

    def _ask_for_daemon(self, visitor: _Visitor, message: Message) -> None:
        try:
            host = self._host_of_node(str(message["node"]))
        except ToolkitError as error:
            log.error("%s", error)
            visitor.say({"type": "ended", "status": error.exit_code})
            return
        self._post({"type": "daemon", "to": host, "arguments": list(message["arguments"]), "number": visitor.number})

    def _ended(self, visitor: _Visitor, end: RankEnd) -> None:
        with self._lock:
            visitor.running = False
            self._ends.append(end)
        self._wake()

    def _leave(self, visitor: _Visitor) -> None:
        assert self._selector is not None
        self._selector.unregister(visitor.connection)
        visitor.connection.close()
        with self._lock:
            del self._visitors[visitor.connection]
        if visitor.running:
            # It could say nothing any more, so it was killed; the script was with it.
            killed = signal.SIGKILL
            self._ended(
                visitor, RankEnd(visitor.rank or 0, SIGNAL_BASE + killed, killed, b"", time.monotonic(), told=False)
            )


class _Visitor:
    def __init__(self, connection: socket.socket, number: int) -> None:
        self.connection = connection
        self.number = number
        self.rank: int | None = None
        self.running = False
        self._received = b""

    def receive(self) -> list[Message] | None:
        """The messages that have come; None at the end."""
        piece = self.connection.recv(_PIECE)
        if not piece:
            return None
        contents, self._received = frames.cut(self._received + piece)
        return [frames.load(content) for content in contents]

    def say(self, message: Message) -> None:
        with contextlib.suppress(OSError):
            frames.send(self.connection, message)
