"""The media types of /invocations: what a body is declared to be, and what an answer is asked to be.

RFC 9110, 8.3.1 and 12.5.1. Upper and lower case are one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

JSON = "application/json"
JSON_LINES = "application/jsonlines"
# The incumbents' other name for JSON lines, of requests alone.
JSONS = "application/jsons"
CSV = "text/csv"
NPY = "application/x-npy"

# In the order in which a range such as */* is served.
ANSWERS = (JSON, JSON_LINES, CSV, NPY)

_PARAMETER = re.compile(r';\s*([^\s;,="]+)\s*=\s*("[^"]*"|[^\s;,"]*)')
# A header has room for thousands, which would keep others waiting.
_MOST_RANGES = 100
_RANGE = re.compile(r'(?:[^,"]|"[^"]*")+')


class MediaType(NamedTuple):
    """Such as ``text/csv; charset=utf-8``."""

    name: str
    parameters: dict[str, str]


# Clients send the same with every request; strangers may send ever other ones, of any length.
@lru_cache(maxsize=100)
def parse(value: str) -> MediaType:
    """The value of a Content-Type, or one range of an Accept."""
    name, semicolon, rest = value.partition(";")
    parameters = {key.lower(): text.strip('"') for key, text in _PARAMETER.findall(semicolon + rest)}
    return MediaType(name.strip().lower(), parameters)


def choose(accept: str | None, default: str = JSON) -> str:
    """The type of the answer: the one of :data:`ANSWERS` that ``accept`` likes best.

    Of several that it likes alike, the first listed. ``default`` is what ranges such as ``*/*`` mean, and what is
    answered where there is no Accept or where it names nothing that there is: the documented container does so too.
    ``default`` may itself be such a list.
    """
    preferred = _wanted(default, ANSWERS)
    order = (*preferred, *(answer for answer in ANSWERS if answer not in preferred))
    return next(iter((*_wanted(accept or "", order), *order)))


def _wanted(accept: str, order: tuple[str, ...]) -> list[str]:
    """What of ``order`` the ranges accept, the best first."""
    ranges = sorted(map(parse, _RANGE.findall(accept)[:_MOST_RANGES]), key=_quality, reverse=True)
    refused = {each.name for each in ranges if not _quality(each)}
    return [
        answer
        for each in ranges
        for answer in order
        if _quality(each) and _is_in(answer, each.name) and answer not in refused
    ]


def _quality(accepted: MediaType) -> float:
    """One that cannot be read is the default of the RFC, 1."""
    text = accepted.parameters.get("q", "1")
    return float(text) if re.fullmatch(r"[01](\.[0-9]{0,3})?", text) else 1.0


def _is_in(answer: str, accepted: str) -> bool:
    return accepted in (answer, "*/*", answer.split("/", maxsplit=1)[0] + "/*")
