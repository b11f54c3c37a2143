"""The ports that the server listens on."""

from __future__ import annotations

import errno
import logging
import socket

from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.serving.settings import SAFE_PORT_RANGE, Settings

log = logging.getLogger("tf_toolkit")

_BACKLOG = 2048


def listen(settings: Settings, host: str | None) -> list[socket.socket]:
    """Sockets for both ports, or the one if they are one; without a host on all addresses."""
    try:
        sockets = [_socket(host, settings.port)]
    except OSError as error:
        raise JobDescriptionError(
            f"port {settings.port} cannot be had: {error.strerror}; choose another: SAGEMAKER_BIND_TO_PORT, or --port"
        ) from error
    if settings.rest_port != settings.port:
        try:
            sockets.append(_socket(host, settings.rest_port))
        except OSError as error:
            # The first port answers all the same.
            log.warning(
                "port %d cannot be had: %s; choose another with %s", settings.rest_port, error.strerror, SAFE_PORT_RANGE
            )
    return sockets


def _socket(host: str | None, port: int) -> socket.socket:
    if host is None and socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
        except OSError as error:
            # The kernel knows IPv6, but it may be turned off in this container.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return socket.create_server((host or "", port), backlog=_BACKLOG)
