"""What is answered at which path, and by which methods. Paths are matched whole."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Optional

from tf_toolkit.serving.errors import RequestError
from tf_toolkit.serving.request import Request, Response, refusal

# The match is that of a route's pattern.
Endpoint = Callable[[Request, Optional["re.Match[str]"]], Awaitable[Response]]


class Route(NamedTuple):
    """The endpoints of a path, by methods. One for GET is also for HEAD, of whose answer no body is sent."""

    name: str
    # A path, or what the whole of a path is, before its percent-encoding is decoded.
    path: str | re.Pattern[str]
    endpoints: Mapping[str, Endpoint]


class Routes:
    """All routes; the first that fits counts."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._fixed = {route.path: route for route in routes if isinstance(route.path, str)}
        self._patterns = [(route.path, route) for route in routes if isinstance(route.path, re.Pattern)]

    def answer(self, request: Request) -> Awaitable[Response]:
        """What its endpoint answers; 405 where its method has none. Raises RequestError where there is no such path."""
        route, match = self._find(request)
        if route is None:
            raise RequestError(404, "Not Found")
        request.route = route.name
        endpoint = route.endpoints.get("GET" if request.method == "HEAD" else request.method)
        return _not_allowed(request, route) if endpoint is None else endpoint(request, match)

    def _find(self, request: Request) -> tuple[Route | None, re.Match[str] | None]:
        route = self._fixed.get(request.raw_path) or self._fixed.get(request.path)
        if route is not None:
            return route, None
        for pattern, route in self._patterns:
            match = pattern.fullmatch(request.raw_path)
            if match is not None:
                return route, match
        return None, None


async def _not_allowed(request: Request, route: Route) -> Response:
    allowed = ", ".join(name for name in ("GET", "HEAD", "POST", "DELETE") if _has(route, name))
    # In the words of TensorFlow Serving, whose users search for them.
    message = f"Malformed request: {request.method} {request.raw_path}; allowed here: {allowed}"
    return refusal(405, message, (b"allow", allowed.encode()))


def _has(route: Route, method: str) -> bool:
    return ("GET" if method == "HEAD" else method) in route.endpoints
