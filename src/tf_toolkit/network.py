"""Which network interface a host's address is on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

LOOPBACK = "lo"
_ANY_PORT = 9
_INTERFACES = Path("/sys/class/net")


def is_loopback(host: str) -> bool:
    """Whether a host is named by a loopback address, as those are that share one machine."""
    return host.startswith("127.")


def interface(named: str, host: str, others: Sequence[str] = ()) -> str:
    """The interface ``named``; where this host has none of that name, the one that carries the address of ``host``.

    Where the name does not say, as it often means the loopback interface on the host itself, the one that leads to
    the other hosts; and else the first that is up.
    """
    if is_loopback(host):
        return LOOPBACK
    if (_INTERFACES / named).exists():
        return named
    import psutil

    carrying = {
        entry.address.partition("%")[0]: str(name)
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if name != LOOPBACK
    }
    up = [str(name) for name, status in psutil.net_if_stats().items() if status.isup and name != LOOPBACK]
    found = (carrying[address] for address in _addresses(host, others) if address in carrying)
    return next(found, up[0] if up else LOOPBACK)


def _addresses(host: str, others: Sequence[str]) -> Iterator[str]:
    """This host's addresses: those of its name, and those that it has for the others."""
    with contextlib.suppress(OSError, ValueError):
        yield from (str(entry[4][0]) for entry in socket.getaddrinfo(host, None))
    for other in others:
        with contextlib.suppress(OSError, ValueError):
            for family, _, _, _, address in socket.getaddrinfo(other, _ANY_PORT, type=socket.SOCK_DGRAM):
                with socket.socket(family, socket.SOCK_DGRAM) as connection:
                    # Sends nothing; it only looks up the route.
                    connection.connect(address)
                    yield str(connection.getsockname()[0])
