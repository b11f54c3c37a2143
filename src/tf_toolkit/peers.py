"""What running processes has to do with the job's other hosts, and with the ranks of this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from tf_toolkit.process import Exit, ProcessSpec


class Stop(NamedTuple):
    """The job's processes are to end, on every host."""

    # The stop signal that somebody sent to one of the hosts; None where something has failed.
    signal_number: int | None


class Request(NamedTuple):
    """A process that another host asks for."""

    spec: ProcessSpec
    # To be called with the status that it ended with.
    ended: Callable[[int], None]


class Peers(Protocol):
    @property
    def stop(self) -> Stop | None:
        """What the others ask of this host, once they do."""

    @property
    def over(self) -> bool:
        """Whether every host's scripts have ended, so that what served them may end too."""

    def ending(self, stop: Stop) -> None:
        """Say that this host's processes are ending before their time, and the others' must too."""

    def quiet(self, ending: bool) -> None:
        """Say that no script runs on this host: they have ended, by themselves or because all were ``ending``."""

    def requests(self) -> Iterable[Request]:
        """The processes asked for since last time."""

    def dismiss_ranks(self) -> None:
        """Let the ranks go whose scripts have ended badly, and which wait so that no other is cut short."""

    def signal_ranks(self, number: int) -> None:
        """Pass a signal to the script of every rank on this host."""

    @property
    def ranks_running(self) -> int:
        """How many ranks' scripts run on this host."""

    def rank_exits(self) -> Iterable[Exit]:
        """The ranks of this host that failed, since last time."""


class Alone:
    """One host, and no ranks."""

    stop = None
    ranks_running = 0

    def __init__(self) -> None:
        self.over = False

    def ending(self, stop: Stop) -> None:
        pass

    def quiet(self, ending: bool) -> None:
        self.over = True

    def requests(self) -> Iterable[Request]:
        return ()

    def dismiss_ranks(self) -> None:
        pass

    def signal_ranks(self, number: int) -> None:
        pass

    def rank_exits(self) -> Iterable[Exit]:
        return ()
