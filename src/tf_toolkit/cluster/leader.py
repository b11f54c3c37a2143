"""What the first host of a job decides: when all may begin, when all must stop, and how the job ended. Pure.

Every host says in turn: ready (its code is installed), quiet (no script of its runs), ended (and how). A host that says
ending, or is gone, stops all. These are answered by go, stop, over and the verdict, which go to all hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tf_toolkit.contract import CLUSTER_FAILED
from tf_toolkit.errors import ClusterError
from tf_toolkit.frames import Message

# A host that has not come when the job is over already gets so long to come and be told.
LATE_SECONDS = 30.0
# For a host to end its processes after their grace, and to say so.
SLACK_SECONDS = 15.0


class Reply(NamedTuple):
    host: str
    message: Message


class End(NamedTuple):
    """How one host says that the job ended for it."""

    status: int
    failure: str | None
    # On the first host's monotonic clock.
    began: float
    # It ended because it was told to.
    consequence: bool


class _Host:
    def __init__(self) -> None:
        self.joined = self.ready = self.quiet = self.gone = False
        self.end: End | None = None

    @property
    def here(self) -> bool:
        return self.joined and not self.gone


class Leader:
    """Takes what hosts say, with the time, and gives what is to be said to whom."""

    def __init__(
        self, hosts: Sequence[str], distributed: bool, wait: float, graces: tuple[float, float], now: float
    ) -> None:
        """``wait`` is for hosts to come, ``graces`` those after a stop signal and after a failure; all in seconds."""
        self.hosts = {host: _Host() for host in hosts}
        # Without a distribution every host runs for itself: none waits for another to begin.
        self._distributed = distributed
        self._wait = wait
        self._stop_grace, self._failure_grace = graces
        self._began = self._told_of = now
        self._went = self._over = False
        self._deadline: float | None = None
        self._stopped = False
        # The stop signal that somebody sent to a host.
        self._signal: Any = None
        self._quiet_since: float | None = None
        self._lost: list[End] = []
        self.verdict: End | None = None

    def missing(self) -> list[str]:
        return [name for name, host in self.hosts.items() if not host.joined]

    def joined(self, name: str, now: float) -> list[Reply]:
        self.hosts[name].joined = True
        replies = self._progress(now)
        if self._deadline is not None and self.verdict is None:
            replies.append(Reply(name, {"type": "stop", "signal": self._signal}))
        return replies

    def gone(self, name: str, what: str, heard: float, now: float) -> list[Reply]:
        """A host has left, or says nothing any more: ``what`` is the cause, ``heard`` when it was heard last."""
        host = self.hosts[name]
        if host.gone or self.verdict is not None:
            return []
        host.gone = True
        self._lost.append(_failure(what, heard))
        return [*self._stop(now, None), *self._progress(now)]

    def said(self, name: str, message: Message, now: float) -> list[Reply]:
        host = self.hosts[name]
        kind = message["type"]
        if kind == "ready":
            host.ready = True
        elif kind == "quiet":
            # One that crossed our stop says nothing of what runs until then.
            host.quiet = message["ending"] or self._deadline is None
        elif kind == "ending":
            return [*self._stop(now, message.get("signal")), *self._progress(now)]
        elif kind == "ended":
            host.quiet = True
            host.end = End(message["status"], message["failure"], now - message["age"], message["consequence"])
            if host.end.status != 0:
                return [*self._stop(now, None), *self._progress(now)]
        return self._progress(now)

    def tick(self, now: float) -> list[Reply]:
        """What time alone brings about."""
        missing = self.missing()
        overdue = self._distributed and self._deadline is None and now - self._began > self._wait
        if missing and overdue:
            self._lost.append(_failure(never_came(missing, self._wait), now))
            return [*self._stop(now, None), *self._progress(now)]
        return self._progress(now)

    def _stop(self, now: float, signal: Any) -> list[Reply]:
        if self._deadline is not None or self.verdict is not None:
            return []
        self._stopped = signal is not None
        self._signal = signal
        self._deadline = now + SLACK_SECONDS + (self._stop_grace if self._stopped else self._failure_grace)
        self._told_of = now
        for host in self.hosts.values():
            host.quiet = host.end is not None
        return self._to_all({"type": "stop", "signal": signal})

    def _progress(self, now: float) -> list[Reply]:
        replies: list[Reply] = []
        here = [host for host in self.hosts.values() if host.here]
        ending = self._deadline is not None
        if not ending and not self._went and not self.missing() and all(host.ready for host in here):
            self._went = True
            replies += self._to_all({"type": "go"})
        if not self._over and all(host.quiet for host in here) and self._complete(now):
            self._over = True
            replies += self._to_all({"type": "over"})
        late = self._deadline is not None and now > self._deadline
        if late and not self._over:
            self._over = True
            replies += self._to_all({"type": "over"})
        if self._over and self.verdict is None and (all(host.end for host in here) or late):
            self.verdict = self._decide()
            failure = self.verdict.failure
            replies += self._to_all({"type": "verdict", "status": self.verdict.status, "failure": failure})
        return replies

    def _complete(self, now: float) -> bool:
        """Whether no other host is to be waited for."""
        if not self.missing() or self._stopped:
            return True
        if self._deadline is not None:
            return now - self._told_of > LATE_SECONDS or now - self._began > self._wait
        if self._distributed:
            return False
        if self._quiet_since is None:
            self._quiet_since = now
        return now - self._quiet_since > LATE_SECONDS

    def _decide(self) -> End:
        ends = [*self._lost, *(host.end for host in self.hosts.values() if host.end)]
        failures = [end for end in ends if end.status != 0]
        if not failures:
            return End(0, None, 0.0, False)
        # The first failure is the cause; what a host died of after it was told to stop is none.
        return min(failures, key=lambda end: (end.consequence, end.began))

    def _to_all(self, message: Message) -> list[Reply]:
        return [Reply(name, message) for name, host in self.hosts.items() if host.here]


def never_came(missing: Sequence[str], wait: float) -> str:
    names = f"host {missing[0]}" if len(missing) == 1 else f"hosts {', '.join(missing)}"
    return (
        f"{names} never came within {wait:.0f} s: not started, or not to be reached, or with another key "
        "(TF_TOOLKIT_CLUSTER_KEY, hyperparameters); TF_TOOLKIT_CLUSTER_WAIT sets another time"
    )


def failure_text(what: str) -> str:
    """A failure file's text for what only the cluster knows."""
    return f"{ClusterError.fault}: {what}\n{ClusterError.__name__}:\nExitCode {CLUSTER_FAILED}\n"


def _failure(what: str, began: float) -> End:
    return End(CLUSTER_FAILED, failure_text(what), began, False)
