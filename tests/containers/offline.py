"""Programs that have no network but chosen ports of this machine, which they find at their own 127.0.0.1."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# CLONE_NEWNET of <sched.h>; Python has os.unshare from 3.12 on.
_NEW_NETWORK = 0x40000000


def popen(
    words: Sequence[str | os.PathLike[str]], ports: Sequence[int] = (), **options: Any
) -> subprocess.Popen[bytes]:
    """Start a program in a network of its own; connections to these ports there lead to the same ports here.

    Only root may. ``options`` are those of subprocess.Popen.
    """

    def start() -> tuple[list[socket.socket], subprocess.Popen[bytes]]:
        # Of this thread alone, and of what it starts. A socket stays where it was made.
        if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), "a network of its own")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return [socket.create_server(("127.0.0.1", port)) for port in ports], subprocess.Popen(words, **options)

    with ThreadPoolExecutor(1) as pool:
        listeners, process = pool.submit(start).result()
    for listener in listeners:
        threading.Thread(target=_relay_all, args=(listener,), daemon=True).start()
    threading.Thread(target=_close_after, args=(process, listeners), daemon=True).start()
    return process


def _close_after(process: subprocess.Popen[bytes], listeners: Sequence[socket.socket]) -> None:
    process.wait()
    for listener in listeners:
        # Closing alone does not wake who waits in accept().
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _relay_all(listener: socket.socket) -> None:
    address = listener.getsockname()
    with contextlib.suppress(OSError):
        while True:
            inside, _ = listener.accept()
            threading.Thread(target=_relay, args=(inside, address), daemon=True).start()


def _relay(inside: socket.socket, address: tuple[str, int]) -> None:
    """Both directions of a connection, to its end."""
    with inside, contextlib.suppress(OSError), socket.create_connection(address) as outside:
        back = threading.Thread(target=_copy, args=(outside, inside), daemon=True)
        back.start()
        _copy(inside, outside)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # Reset by one side, which the other is to see, and the other direction too.
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
