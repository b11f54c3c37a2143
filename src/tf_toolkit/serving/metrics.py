"""What /metrics says, in Prometheus' text format.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from tf_toolkit.serving.registry import Servable, State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counts of one server; for its event loop alone."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, int], int] = {}
        self._seconds: dict[str, _Histogram] = {}

    def count(self, route: str, model: str, status: int, seconds: float) -> None:
        """One request that was answered."""
        key = route, model, status
        self._requests[key] = self._requests.get(key, 0) + 1
        histogram = self._seconds.get(route)
        if histogram is None:
            histogram = self._seconds[route] = _Histogram()
        histogram.add(seconds)

    def text(self, in_flight: int, servables: Iterable[Servable]) -> str:
        """All of them, and what the models' states are."""
        lines = [
            *_head("tf_toolkit_requests_total", "counter", "Requests answered, by route, model and HTTP status."),
            *(
                f'tf_toolkit_requests_total{{route="{route}",model="{_escaped(model)}",status="{status}"}} {number}'
                for (route, model, status), number in sorted(self._requests.items())
            ),
            *_head("tf_toolkit_request_seconds", "histogram", "From a request's headers to its answer."),
            *(line for route, seconds in sorted(self._seconds.items()) for line in seconds.lines(route)),
            *_head("tf_toolkit_requests_in_flight", "gauge", "Requests that are being answered."),
            f"tf_toolkit_requests_in_flight {in_flight}",
            *_head("tf_toolkit_model_state", "gauge", "1 for the state that a version of a model is in, else 0."),
        ]
        for servable in servables:
            labels = f'model="{_escaped(servable.name)}",version="{servable.version}"'
            lines += (
                f'tf_toolkit_model_state{{{labels},state="{state.name}"}} {int(servable.state is state)}'
                for state in State
            )
        return "\n".join(lines) + "\n"


class _Histogram:
    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(_BOUNDS, seconds)] += 1
        self._sum += seconds

    def lines(self, route: str) -> Iterable[str]:
        total = 0
        for bound, number in zip((*(f"{bound:g}" for bound in _BOUNDS), "+Inf"), self._counts):
            total += number
            yield f'tf_toolkit_request_seconds_bucket{{route="{route}",le="{bound}"}} {total}'
        yield f'tf_toolkit_request_seconds_sum{{route="{route}"}} {self._sum!r}'
        yield f'tf_toolkit_request_seconds_count{{route="{route}"}} {total}'


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
