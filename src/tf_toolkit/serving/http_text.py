"""HTTP as it stands on the wire: the heads of answers, and what of requests is read or mended beside the parser."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus

import httptools

from tf_toolkit.serving.request import Response

_Headers = Sequence[tuple[bytes, bytes]]

# httptools takes no body of a request that has this header; nobody needs what clients offer by it.
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_IGNORED = b"\r\nignored:"
_END = b"\r\n\r\n"


def head(response: Response, common: _Headers, *, last: bool) -> bytes:
    """What comes before the body of an answer. ``common`` headers change once a second."""
    start = _start(response.status, response.content_type)
    more = _lines(response.headers) if response.headers else b""
    closing = b"connection: close\r\n" if last else b""
    return b"%b%d\r\n%b%b%b\r\n" % (start, len(response.body), _common_lines(tuple(common)), more, closing)


@lru_cache(maxsize=100)
def _start(status: int, content_type: str) -> bytes:
    """Up to the number of bytes of the body."""
    phrase = HTTPStatus(status).phrase
    return f"HTTP/1.1 {status} {phrase}\r\ncontent-type: {content_type}\r\ncontent-length: ".encode()


@lru_cache(maxsize=1)
def _common_lines(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return _lines(headers)


def _lines(headers: _Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def path(url: bytes) -> str:
    """The path of a request's target as it was sent, without what is before it and behind it.

    Raises ValueError and httptools.HttpParserError for what is none.
    """
    is_plain = url.startswith(b"/") and b"?" not in url and b"#" not in url
    return (url if is_plain else httptools.parse_url(url).path).decode("ascii")


def without_upgrade(data: bytes) -> bytes:
    """A packet that begins in headers, with another name for that one."""
    before, end, rest = data.partition(_END)
    return _UPGRADE.sub(_IGNORED, before) + end + rest
