"""What a check found: values only."""

from __future__ import annotations

from typing import NamedTuple

PASS, WARN, FAIL = "pass", "warn", "fail"


class Check(NamedTuple):
    """One line of the report."""

    name: str
    state: str
    found: str
    # What to do about it; empty where nothing need be done.
    remedy: str = ""


def passed(name: str, found: str) -> Check:
    return Check(name, PASS, found)


def warned(name: str, found: str, remedy: str) -> Check:
    """Jobs run, if they do without it."""
    return Check(name, WARN, found, remedy)


def failed(name: str, found: str, remedy: str) -> Check:
    """Jobs do not run."""
    return Check(name, FAIL, found, remedy)


def size(number: float) -> str:
    """A size in bytes, as a person says it: ``64 MiB``, ``1.5 GiB``."""
    if number < 2**30:
        return f"{number / 2**20:.0f} MiB"
    return f"{number / 2**30:.1f} GiB"
