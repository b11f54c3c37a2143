"""How long something takes that is done again and again, on a machine that may be busy with something else."""

from __future__ import annotations

# What one time that was held up may add.
_RISE = 1.5


class Pace:
    """Seconds of the last times; a faster one counts at once, a slower one by half as much again each time."""

    def __init__(self) -> None:
        self.seconds = float("inf")

    def add(self, seconds: float) -> None:
        """Another time."""
        slower = self.seconds * _RISE
        self.seconds = seconds if seconds < slower else slower
