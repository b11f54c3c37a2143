"""What a request is refused with: an HTTP status, and the message of its JSON body."""

from __future__ import annotations

from collections.abc import Mapping

# What TensorFlow's error codes are over HTTP; all others are 500.
HTTP_STATUS: Mapping[str, int] = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class RequestError(Exception):
    """The request is answered with ``status`` and ``{"error": message}``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def invalid(message: str) -> RequestError:
    """400."""
    return RequestError(400, message)


class ModelError(Exception):
    """A model cannot be loaded; the message names its directory and says why."""


class ModelRunError(RequestError):
    """TensorFlow refused to run the model: ``code`` is its own, such as INVALID_ARGUMENT."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(HTTP_STATUS.get(code, 500), message)
        self.code = code
