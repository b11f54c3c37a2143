"""docker-py: how the daemon is reached, and what becomes of its errors. Imported when a run needs it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from tf_toolkit.errors import ToolkitError

# A busy daemon takes its time, but answers.
_ANSWER_SECONDS = 120


class DockerError(ToolkitError):
    """The daemon cannot be reached, or will not do what it was asked for."""

    # As `docker run` ends then.
    exit_code = 125


class Missing(DockerError):
    """There is no such thing on the daemon."""


def api_client() -> Any:
    """docker-py's client of the daemon that DOCKER_HOST names. Raises DockerError."""
    try:
        from docker import APIClient
        from docker.utils import kwargs_from_env
    except ImportError as error:
        raise DockerError("--image needs docker-py, which is not installed: pip install 'tf-toolkit[local]'") from error
    where = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    try:
        return APIClient(version="auto", timeout=_ANSWER_SECONDS, **kwargs_from_env())
    except _errors(ValueError) as error:
        text = str(error)
        if "PermissionError" in text:
            raise DockerError(
                f"the Docker daemon at {where}: permission denied; have your user in the group docker, or name another "
                "daemon in DOCKER_HOST"
            ) from error
        if any(word in text for word in ("FileNotFoundError", "ConnectionRefusedError", "Connection refused")):
            raise DockerError(
                f"no Docker daemon answers at {where}; start it, or name another in DOCKER_HOST"
            ) from error
        raise DockerError(f"the Docker daemon at {where}: {text}; see DOCKER_HOST") from error


def _errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """What docker-py raises; those of requests, below it, are OSErrors."""
    from docker.errors import DockerException

    return DockerException, OSError, *others


@contextlib.contextmanager
def asked(what: str) -> Iterator[None]:
    """Within, what the daemon does not do is one line that begins with ``what``."""
    try:
        yield
    except _errors() as error:
        from docker.errors import NotFound

        kind = Missing if isinstance(error, NotFound) else DockerError
        raise kind(f"{what}: {getattr(error, 'explanation', None) or error}") from error
