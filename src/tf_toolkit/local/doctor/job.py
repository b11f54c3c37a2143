"""The job's description, where there is one: the files, the network interface and the hosts that they name."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

from tf_toolkit import contract, network
from tf_toolkit.config import JobConfig, read_config
from tf_toolkit.contract import Paths
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.local.doctor.check import Check, failed, passed, warned
from tf_toolkit.local.doctor.later import Later, NoAnswerError

_NO_JOB = "no job is described here"
# What a description without this key means.
_DEFAULT_INTERFACE = "eth0"
_RESOLVE_SECONDS = 10.0
_NAMED = 3
_LOCK = threading.Lock()


class Described(NamedTuple):
    check: Check
    # That of the description, or of a job without one; None where it is wrong.
    config: JobConfig | None
    # Whether there is a description at all.
    there: bool


def read(paths: Paths, environ: Mapping[str, str]) -> Described:
    """Read it, as `train` will."""
    names = (contract.RESOURCE_CONFIG_FILE, contract.INPUT_DATA_CONFIG_FILE, contract.HYPERPARAMETERS_FILE)
    found = [name for name in names if os.path.lexists(paths.input_config / name)]
    try:
        config = read_config(paths, environ)
    except JobDescriptionError as error:
        return Described(failed("job", str(error), "write there what is expected"), None, bool(found))
    if config.warnings:
        return Described(warned("job", "; ".join(config.warnings), "correct it"), config, bool(found))
    text = f"{paths.input_config}: {', '.join(found)}" if found else f"{_NO_JOB}: nothing in {paths.input_config}"
    return Described(passed("job", text), config, bool(found))


def interface_of(config: JobConfig | None) -> str:
    """The network interface that the job will use. Raises ImportError."""
    # Of a module whose import fails, another thread that imports it at the same time would get half.
    with _LOCK:
        if config is None:
            return network.interface(_DEFAULT_INTERFACE, os.uname().nodename)
        others = [host for host in config.distribution_hosts if host != config.current_host]
        return network.interface(config.network_interface, config.current_host, others)


def interface(described: Described) -> Check:
    """Whether the interface of the description is here."""
    config = described.config
    if config is None:
        return warned("network interface", "not known", "see job")
    try:
        found = interface_of(config)
    except ImportError as error:
        return failed("network interface", f"not looked for: {error}", "see requirements")
    named = config.resource_config.get("network_interface_name")
    if named is None or named == found:
        return passed("network interface", found)
    return warned(
        "network interface",
        f"{contract.RESOURCE_CONFIG_FILE} names {named!r}, which is not here; jobs use {found!r} instead",
        f"correct network_interface_name, unless {found!r} is where the job's hosts are",
    )


def hosts(described: Described) -> Check:
    """Whether the names of the other hosts can be looked up."""
    config = described.config
    if config is None:
        return warned("hosts", "not known", "see job")
    if not described.there:
        return passed("hosts", _NO_JOB)
    what = f"{config.current_host}, {len(config.hosts)} in all"
    if len(config.hosts) == 1:
        # Nothing needs its name.
        return passed("hosts", f"{config.current_host} alone")
    until = time.monotonic() + _RESOLVE_SECONDS
    waiting = {host: Later(lambda host=host: _resolves(host)) for host in config.hosts}  # type: ignore[misc]
    unknown = [host for host, later in waiting.items() if not _got(later, until)]
    if not unknown:
        return passed("hosts", f"{what}; their names resolve")
    named = ", ".join(unknown[:_NAMED]) + (f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else "")
    return warned(
        "hosts",
        f"{what}; these names do not resolve: {named}",
        "start these hosts, on the same network and under these names; jobs wait for them for "
        f"{contract.CLUSTER_WAIT_SECONDS:.0f} s",
    )


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except (OSError, ValueError):
        return False


def _got(later: Later[bool], until: float) -> bool:
    try:
        return later.get(until)
    except NoAnswerError:
        return False
