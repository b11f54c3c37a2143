"""GET /docs: a page to try a request by, in a browser. It is one file, which asks nobody but this server."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from tf_toolkit.serving.request import Request, Response
from tf_toolkit.serving.routes import Route

_FILE = Path(__file__).with_name("page.html")
_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


def routes() -> list[Route]:
    """Its route."""
    return [Route("/docs", "/docs", {"GET": _page})]


async def _page(request: Request, match: re.Match[str] | None) -> Response:
    return _response()


@lru_cache(maxsize=1)
def _response() -> Response:
    """Nothing runs or is asked for but what stands in the file: answers and models' names are strangers' texts."""
    # What few ask for, and nobody is to wait for at the start.
    import base64
    import hashlib

    text = _FILE.read_bytes()
    hashes = {kind.decode(): base64.b64encode(hashlib.sha256(code).digest()) for kind, code in _INLINE.findall(text)}
    policy = b"; ".join(
        [
            b"default-src 'none'",
            b"script-src 'sha256-%s'" % hashes["script"],
            b"style-src 'sha256-%s'" % hashes["style"],
            b"connect-src 'self'",
            # The icon, so that none is asked for.
            b"img-src data:",
            b"base-uri 'none'",
            b"form-action 'none'",
            b"frame-ancestors 'none'",
        ]
    )
    headers = ((b"content-security-policy", policy), (b"x-content-type-options", b"nosniff"))
    return Response(text, "text/html; charset=utf-8", 200, headers)
