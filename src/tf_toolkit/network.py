"""Which network interface a host's address is on."""

from __future__ import annotations

import socket
from pathlib import Path

LOOPBACK = "lo"
_INTERFACES = Path("/sys/class/net")


def is_loopback(host: str) -> bool:
    """Whether a host is named by a loopback address, as those are that share one machine."""
    return host.startswith("127.")


def interface(named: str, host: str) -> str:
    """The interface ``named``; where this host has none of that name, the one that carries the address of ``host``."""
    if is_loopback(host):
        return LOOPBACK
    return named if (_INTERFACES / named).exists() else _carrying(host)


def _carrying(host: str) -> str:
    """Where the name cannot be resolved: the first interface that is up, and the loopback one if there is no other."""
    import psutil

    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        addresses = set()
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] in addresses for entry in entries):
            return str(name)
    up = [str(name) for name, status in psutil.net_if_stats().items() if status.isup and name != LOOPBACK]
    return up[0] if up else LOOPBACK
