"""A launcher's door as tests have it: the same socket and messages, and the test decides what is said."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from conftest import DEADLINE, wait_until
from tf_toolkit import frames
from tf_toolkit.process import ProcessSpec


class Door:
    def __init__(self, directory: Path, argv: Sequence[str] = (), cwd: str = "/") -> None:
        self.path = directory / "door"
        self.command = {"type": "command", "argv": list(argv), "cwd": cwd}
        # Starts the daemon that an rsh asks for.
        self.daemon: Callable[[str, list[str]], subprocess.Popen[bytes]] | None = None
        self.ranks: dict[int, socket.socket] = {}
        self.ends: dict[int, dict[str, Any]] = {}
        self.asked: list[dict[str, Any]] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self.path))
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def say(self, rank: int, **message: object) -> None:
        frames.send(self.ranks[rank], message)

    def close(self) -> None:
        """As when the launcher is killed."""
        self._socket.close()
        for connection in self.ranks.values():
            connection.shutdown(socket.SHUT_RDWR)

    def end_of(self, rank: int) -> dict[str, Any]:
        end: dict[str, Any] = wait_until(lambda: self.ends.get(rank), f"the end of rank {rank}")
        return end

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while message := frames.receive(connection):
                self.asked.append(message)
                if message["type"] == "rank":
                    self.ranks[message["rank"]] = connection
                    frames.send(connection, self.command)
                elif message["type"] == "ended":
                    self.ends[message["rank"]] = message
                elif message["type"] == "daemon" and self.daemon is not None:
                    process = self.daemon(message["node"], message["arguments"])
                    frames.send(connection, {"type": "ended", "status": process.wait()})


@contextlib.contextmanager
def opened(argv: Sequence[str] = (), cwd: str = "/") -> Iterator[Door]:
    # Not pytest's own directories: a socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory() as directory:
        door = Door(Path(directory), argv, cwd)
        try:
            yield door
        finally:
            with contextlib.suppress(OSError):
                door.close()


def started(spec: ProcessSpec, **options: Any) -> subprocess.Popen[bytes]:
    """The process of a spec, as the supervisor starts it."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(list(spec.argv), env=dict(spec.env), cwd=spec.cwd, start_new_session=True, **pipes)


def finished(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """Status, standard output and standard error; KILL to all of it when the deadline has passed."""
    try:
        stdout, stderr = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, stdout, stderr
