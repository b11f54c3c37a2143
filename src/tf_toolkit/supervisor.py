"""Stage 5, run: spawn, forward signals, reap, pass standard error through, escalate.

Handlers only record; one loop acts. Standard output is the container's own, inherited. Standard error passes through
a thread per process, bytes in, the same bytes out, so that a reader who is slow or gone never keeps the loop from a
signal.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Sequence

from tf_toolkit import signals
from tf_toolkit.child import Child
from tf_toolkit.contract import FAILURE_GRACE_SECONDS
from tf_toolkit.errors import ExecuteUserScriptError
from tf_toolkit.peers import Alone, Peers, Stop
from tf_toolkit.process import Exit, ProcessSpec
from tf_toolkit.stderr import Around

log = logging.getLogger("tf_toolkit")

# What a script leaves running when it ends gets TERM, and after this KILL.
_LEFTOVER_GRACE_SECONDS = 5.0
# What served the scripts gets TERM when all have ended, and after this KILL.
_SERVER_GRACE_SECONDS = 2.0
# For what the ranks wrote last to come through, where Open MPI would wait for ranks that are to be killed.
_AFTER_FAILURE_SECONDS = 0.5
# For hosts to hear from one another that one is gone. Of one that had not joined them yet they never do.
HEARING_SECONDS = 35.0
# Linux, <sys/prctl.h>.
_PR_SET_CHILD_SUBREAPER = 36


def run(
    specs: Sequence[ProcessSpec],
    stop_grace: float,
    around: Around = contextlib.nullcontext,
    peers: Peers | None = None,
) -> tuple[Exit, ...]:
    """Run processes to their end, and return how each ended, in order, and after them the ranks that failed.

    The first to fail ends the others, here and on other hosts. Servers end when the scripts of all hosts have, and
    companions after them. Whatever any of them left running is ended too. A stop signal is forwarded; KILL follows
    after ``stop_grace`` seconds, and after :data:`FAILURE_GRACE_SECONDS` where another process failed.

    Raises ExecuteUserScriptError if one cannot be started.
    """
    with signals.interruptible(False):
        running = _Run(specs, stop_grace, around, peers)
        # Not before: the script is on its way meanwhile, and has no orphans yet.
        _adopt_orphans()
        return running.to_the_end()


class _Run:
    def __init__(self, specs: Sequence[ProcessSpec], stop_grace: float, around: Around, peers: Peers | None) -> None:
        self.stop_grace = stop_grace
        self.around = around
        self.peers: Peers = peers or Alone()
        # A container ends with its first process; elsewhere the scripts of a host must not outlive its launcher.
        self.dies_with_us = peers is not None and os.getpid() != 1
        self.stop_at: float | None = None
        # The scripts are being ended before their time.
        self.ending = False
        self.said_quiet: bool | None = None
        # A stop signal that another host got and passed on; whoever sent it may have sent it to this host too.
        self.heard: int | None = None
        self.ranks_killed_at = math.inf
        self.children: list[Child] = []
        self.ranks: list[Exit] = []
        try:
            for spec in specs:
                self._start(spec)
        except ExecuteUserScriptError:
            self._end_all()
            raise

    def _start(self, spec: ProcessSpec) -> Child:
        child = Child(spec, self.around, self.dies_with_us)
        self.children.append(child)
        return child

    def to_the_end(self) -> tuple[Exit, ...]:
        companions = [child for child in self.children if child.spec.companion]
        self._loop(self._is_on)
        # What served the scripts is ended now, which says nothing; unless the stop came before any rank was there.
        counted = [child for child in self._mine() if child.exit is not None]
        if self.ending and not self.ranks:
            counted += [child for child in self._mine() if child.exit is None and child.spec.ranks]
        self._end_the_rest()
        self._end_leftovers(companions)
        for child in companions:
            self._stop(child, min(child.spec.companion_grace, self._time_left()))
        self._loop(lambda: any(child.exit is None for child in companions))
        self._end_leftovers([])
        return (*(child.report() for child in [*counted, *companions]), *self.ranks)

    def _is_on(self) -> bool:
        """Whether the job goes on, on this host or another. Says so when the scripts of this one have ended."""
        if self.said_quiet != self.ending and not self._scripts_run():
            self.said_quiet = self.ending
            self.peers.quiet(self.ending)
        return not self.peers.over

    def _mine(self) -> list[Child]:
        return [child for child in self.children if not child.spec.companion]

    def _scripts_run(self) -> bool:
        """Whether a script still runs. When all are ending, Open MPI's own processes wait for the ranks everywhere."""
        scripts = [child for child in self.children if child.is_script and child.exit is None]
        if not self.ending:
            return bool(scripts)
        ranks_run = self.peers.ranks_running > 0 and time.monotonic() < self.ranks_killed_at
        return ranks_run or any(not child.spec.ranks for child in scripts)

    def _time_left(self) -> float:
        """What a stop that was asked for leaves of the grace; the platform's own KILL ends even the report."""
        return math.inf if self.stop_at is None else max(0.0, self.stop_at - time.monotonic())

    def _loop(self, goes_on: Callable[[], bool]) -> None:
        """Forward, reap and escalate while it goes on."""
        while True:
            self._forward()
            self._hear_peers()
            while self._reap():
                pass
            self._escalate()
            self._end_others_of_failed()
            if not goes_on():
                return
            deadlines = [child.kill_at for child in self._running() if child.kill_at is not None]
            for moment in (self.ranks_killed_at, self._failed_at()):
                if time.monotonic() < moment < math.inf:
                    deadlines.append(moment)
            signals.sleep(min(deadlines) - time.monotonic() if deadlines else None)

    def _running(self) -> list[Child]:
        return [child for child in self.children if child.exit is None]

    def _escalate(self) -> None:
        now = time.monotonic()
        for child in self._running():
            if child.kill_at is not None and now >= child.kill_at:
                child.send(signal.SIGKILL)
                child.kill_at = None

    def _forward(self) -> None:
        for number in signals.taken():
            if number == self.heard:
                self.heard = None
                continue
            if number in signals.ESCALATED:
                self.ending = True
                self.peers.ending(Stop(number))
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        if number in signals.ESCALATED and self.stop_at is None:
            self.stop_at = time.monotonic() + self.stop_grace
            self.ranks_killed_at = min(self.ranks_killed_at, self.stop_at)
        self.peers.signal_ranks(number)
        for child in self._running():
            # A companion ends after the others, and a server after all scripts; each is told so then.
            if not child.is_script:
                continue
            if number in signals.STOP:
                child.stopped_by = child.stopped_by or number
            if child.spec.ranks:
                continue
            if number in signals.ESCALATED and child.kill_at is None:
                child.kill_at = self.stop_at
            child.send(number)

    def _hear_peers(self) -> None:
        stop = self.peers.stop
        if stop is not None and not self.ending:
            self.ending = True
            if stop.signal_number is None:
                self._stop_scripts()
            else:
                self.heard = stop.signal_number
                self._pass_on(stop.signal_number)
        elif signals.interrupted() and not self.ending:
            # Raised when this is over; until then it ends what runs.
            self.ending = True
            self._stop_scripts()
        for request in self.peers.requests():
            try:
                self._start(request.spec).when_ended = request.ended
            except ExecuteUserScriptError as error:
                log.error("%s", error)
                request.ended(error.exit_code)
        for end in self.peers.rank_exits():
            stopped_by = next((child.stopped_by for child in self.children if child.stopped_by is not None), None)
            self.ranks.append(end._replace(stopped_by=stopped_by, told=end.told and stopped_by is None))

    def _end_others_of_failed(self) -> None:
        if self.peers.over or self.ending:
            return
        if self.ranks or self._failed_at() <= time.monotonic():
            self.ending = True
            self.peers.ending(Stop(None))
            self._stop_scripts()

    def _failed_at(self) -> float:
        """When a process failed that others must not outlive; for one that was to tell them itself, some time later."""
        moments = [math.inf]
        for end in (child.exit for child in self._mine() if child.exit is not None):
            if not end.spec.independent and (end.status != 0 or end.spec.server):
                moments.append(end.began)
            elif end.spec.independent and end.signal_number is not None:
                moments.append(end.began + HEARING_SECONDS)
        return min(moments)

    def _stop_scripts(self) -> None:
        grace = min(self.stop_grace, FAILURE_GRACE_SECONDS)
        self.ranks_killed_at = min(self.ranks_killed_at, time.monotonic() + grace)
        self.peers.signal_ranks(signal.SIGTERM)
        for child in self._running():
            if child.is_script and not child.spec.ranks and child.kill_at is None:
                self._stop(child, grace)

    def _stop(self, child: Child, grace: float) -> None:
        if child.exit is None:
            child.told_at = min(child.told_at, time.monotonic())
            child.send(signal.SIGTERM)
            child.kill_at = time.monotonic() + grace

    def _end_the_rest(self) -> None:
        """End what served the scripts, now that those of all hosts have ended."""
        for child in self._mine():
            if child.spec.ranks:
                # Open MPI's processes end by themselves once the ranks have; after a failure, not soon.
                child.told_at = time.monotonic()
                child.kill_at = child.told_at + (_AFTER_FAILURE_SECONDS if self.ranks else _SERVER_GRACE_SECONDS)
            else:
                self._stop(child, _SERVER_GRACE_SECONDS)
        self._loop(lambda: any(child.exit is None for child in self._mine()))
        self.peers.dismiss_ranks()

    def _reap(self) -> bool:
        """Collect every process that has ended, ours and orphans; whether one was ours."""
        found = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            for child in self.children:
                if child.popen.pid == pid and child.exit is None:
                    child.ended(status)
                    found = True

    def _end_leftovers(self, spared: Sequence[Child]) -> None:
        """End what the processes left behind: orphans come to us, so whoever is still our child is one."""
        kill_at = time.monotonic() + _LEFTOVER_GRACE_SECONDS
        give_up_at = kill_at + _LEFTOVER_GRACE_SECONDS
        told: set[int] = set()
        while time.monotonic() < give_up_at:
            self._reap()
            number = signal.SIGTERM if time.monotonic() < kill_at else signal.SIGKILL
            leftovers = _descendants({child.popen.pid for child in spared})
            if not leftovers:
                return
            for pid in leftovers:
                if pid not in told or number == signal.SIGKILL:
                    told.add(pid)
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)
            signals.sleep(0.1)

    def _end_all(self) -> None:
        for child in self.children:
            child.send(signal.SIGKILL)
        self._loop(lambda: bool(self._running()))


def _descendants(spared: set[int]) -> list[int]:
    """Processes below this one, without the spared and what is below them."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return []
    import psutil

    me = psutil.Process()
    found: list[int] = []
    for child in me.children():
        if child.pid in spared:
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child.pid, *(below.pid for below in child.children(recursive=True))]
    return found


def _adopt_orphans() -> None:
    """Have the orphans of our processes given to us, as PID 1 has anyway, so that none outlives the job."""
    if os.getpid() == 1:
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
