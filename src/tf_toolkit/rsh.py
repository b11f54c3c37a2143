"""What mpirun calls in place of ssh, to have its daemon started on another host: ``python -m tf_toolkit.rsh``.

Arguments, as Open MPI's rsh launcher makes them: the node's name, then a command line for a shell, of any number of
words, with the daemon (``orted``, ``prted``) and its arguments in it.
Environment: TF_TOOLKIT_DOOR, where this host's launcher listens.
Says ``{"type": "daemon", "node": ..., "arguments": [...]}``; hears ``{"type": "ended", "status": ...}`` when the
daemon has ended, which that host's own launcher runs.
Exit codes: the daemon's status; 1 when the launcher is gone; 2 for a command line without a daemon.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence

from tf_toolkit import frames
from tf_toolkit.contract import DOOR

DAEMONS = ("orted", "prted")
_GONE = 1
_USAGE = 2


def main() -> None:
    sys.exit(ask(sys.argv[1:], os.environ))


def ask(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Have the daemon started; returns its status when it has ended."""
    arguments = daemon_arguments(words[1:])
    door = environ.get(DOOR)
    if arguments is None or not door:
        print(f"tf_toolkit.rsh is for mpirun, in a job of {DOOR}: found no daemon in {words}", file=sys.stderr)
        return _USAGE
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(door)
            frames.send(connection, {"type": "daemon", "node": words[0], "arguments": arguments})
            answer = frames.receive(connection)
        except (OSError, ValueError):
            return _GONE
    return _GONE if answer is None else int(answer["status"])


def daemon_arguments(words: Sequence[str]) -> list[str] | None:
    """The daemon's arguments in a command line for a shell; None where it starts no daemon.

    Before the daemon may stand assignments of PATH and LD_LIBRARY_PATH: the host's own launcher has its own.
    """
    try:
        split = shlex.split(" ".join(words))
    except ValueError:
        return None
    for number, word in enumerate(split):
        if word.lstrip(";(").rpartition("/")[2] in DAEMONS:
            # A daemon that leaves its parent could be neither watched nor waited for.
            return [argument for argument in split[number + 1 :] if argument != "--daemonize"]
    return None


if __name__ == "__main__":
    main()
