"""Stage 5, meet: the hosts of a job find one another, and the first failure of any reaches all.

The first host listens, the others join it; each launcher keeps a thread for that (channel.py), which passes messages to
where the decisions are made (leader.py). No host leaves before the verdict is common.
"""

from __future__ import annotations

import collections
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tf_toolkit import contract, signals
from tf_toolkit.cluster.channel import Channel, Place
from tf_toolkit.cluster.door import Door
from tf_toolkit.config import JobConfig
from tf_toolkit.errors import ClusterError, JobDescriptionError, PeersEnding
from tf_toolkit.frames import Message
from tf_toolkit.peers import Request, Stop
from tf_toolkit.process import Exit, ProcessSpec

log = logging.getLogger("tf_toolkit")

_BROKE = "the channel between the hosts broke; the log says why"
_LONGEST_FAILURE = 16 * 1024


class Verdict(NamedTuple):
    """How the job ended, on every host alike: the exit status, and the failure file's text, None for success."""

    status: int
    failure: str | None


class Cluster:
    """The job's hosts, as one launcher sees them. A :class:`tf_toolkit.peers.Peers` while processes run."""

    def __init__(
        self, place: Place, door: Path | None = None, host_of_node: Callable[[str], str] = lambda node: node
    ) -> None:
        """With ``door``, a path for a socket, Open MPI can be served; ``host_of_node`` knows what it calls the hosts.

        Raises ClusterError where this is the first host and cannot listen.
        """
        self._door = None if door is None else Door(door, self._rank_command, host_of_node)
        self._rank_spec: ProcessSpec | None = None
        self._daemon: Callable[[Sequence[str]], ProcessSpec] | None = None
        self._requested: collections.deque[Message] = collections.deque()
        self.stop: Stop | None = None
        # When the others asked for it; never, where it came from this host.
        self._stopped_at: float | None = None
        self._began_it = False
        self.over = False
        self._gone = False
        self._distributed = place.distributed
        self._verdict: Verdict | None = None
        # What was the end of this host's own contact, where it lost the others.
        self._lost_at: float | None = None
        self._left = self._broke = False
        self._channel = Channel(place, self._deliver, self._door)
        self._channel.start()

    @property
    def variables(self) -> dict[str, str]:
        """What the processes of this host need to know of it."""
        return {contract.DOOR: str(self._door.path)} if self._door is not None else {}

    def runs(self, rank: ProcessSpec, daemon: Callable[[Sequence[str]], ProcessSpec]) -> None:
        """What Open MPI is to start on this host: the command of each rank, and the daemon, given its arguments."""
        self._rank_spec, self._daemon = rank, daemon

    def meet(self) -> None:
        """Wait until every host is ready to begin. A failure of any of them raises PeersEnding here."""
        self._post({"type": "ready"})
        if self._distributed:
            self._wait(lambda: self._gone)

    def agree(self, status: int, failure: str | None, began: float, stopped_by: int | None, told: bool) -> Verdict:
        """Tell how the job ended for this host, and wait for what all hosts end with.

        ``began`` is when its end began, on the monotonic clock; ``stopped_by`` the stop signal that it came by, if any;
        ``told`` whether it came only of another failure.
        """
        own = Verdict(status, failure if failure is None else failure[:_LONGEST_FAILURE])
        if status != 0:
            self._post({"type": "ending", "signal": stopped_by})
        self._post(
            {
                "type": "ended",
                "status": status,
                "failure": own.failure,
                "age": time.monotonic() - began,
                "consequence": told or self._is_consequence(began),
            }
        )
        self._wait(lambda: self._left)
        if self._broke and status == 0:
            raise ClusterError(_BROKE)
        if self._verdict is None or (self._lost_at is not None and status != 0 and began < self._lost_at):
            return own
        return self._verdict

    def _is_consequence(self, began: float) -> bool:
        return not self._began_it and self._stopped_at is not None and began >= self._stopped_at

    def _rank_command(self) -> tuple[tuple[str, ...], str]:
        assert self._rank_spec is not None
        return self._rank_spec.argv, self._rank_spec.cwd

    # What the supervisor asks: tf_toolkit.peers.Peers.

    def ending(self, stop: Stop) -> None:
        self._began_it = self._began_it or self.stop is None
        self._post({"type": "ending", "signal": stop.signal_number})

    def quiet(self, ending: bool) -> None:
        self._post({"type": "quiet", "ending": ending})

    def requests(self) -> Iterable[Request]:
        while self._requested and self._daemon is not None:
            message = self._requested.popleft()
            log.info("cluster: %s asks for an Open MPI daemon", message["from"])
            yield Request(self._daemon(message["arguments"]), self._answer(message))

    def _answer(self, message: Message) -> Callable[[int], None]:
        answer = {"type": "daemon ended", "to": message["from"], "number": message["number"]}
        return lambda status: self._post({**answer, "status": status})

    def dismiss_ranks(self) -> None:
        if self._door is not None:
            self._door.dismiss()

    def signal_ranks(self, number: int) -> None:
        if self._door is not None:
            self._door.signal(number)

    @property
    def ranks_running(self) -> int:
        return self._door.running if self._door is not None else 0

    def rank_exits(self) -> Iterable[Exit]:
        for end in self._door.ends() if self._door is not None else ():
            assert self._rank_spec is not None
            yield Exit(
                spec=self._rank_spec._replace(role=f"rank {end.rank}"),
                status=end.status,
                signal_number=end.signal_number,
                stderr=end.stderr,
                stopped_by=None,
                oom_kills=0,
                began=end.began,
                told=end.told,
            )

    # The channel's thread.

    def _deliver(self, message: Message) -> None:
        """Take what the others say. Runs in the channel's thread."""
        kind = message["type"]
        if kind == "go":
            self._gone = True
        elif kind == "stop" and self.stop is None:
            self._stopped_at = time.monotonic()
            self.stop = Stop(message["signal"])
            if message.get("lost"):
                self._lost_at = self._stopped_at
            signals.interrupt(PeersEnding())
        elif kind == "over":
            self.over = True
        elif kind == "verdict":
            self._verdict = Verdict(message["status"], message["failure"])
            self.over = True
        elif kind == "daemon":
            self._requested.append(message)
        elif kind == "daemon ended" and self._door is not None:
            self._door.daemon_ended(message["number"], message["status"])
        elif kind == "left":
            self._left, self._broke = True, message["broke"]
            if self._broke and self.stop is None:
                self.stop = Stop(None)
            self.over = True
        signals.wake()

    def _post(self, message: Message) -> None:
        self._channel.post(message)

    def _wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self._left:
                raise ClusterError(_BROKE)
            signals.sleep(1.0)


def place(config: JobConfig, environ: Mapping[str, str], stop_grace: float) -> Place:
    """Where this host stands in its job. Raises JobDescriptionError for a setting that makes no sense."""
    return Place(
        host=config.current_host,
        hosts=config.hosts,
        port=contract.port(environ, 0, contract.CLUSTER_PORT),
        key=_key(config, environ),
        wait=_wait_seconds(environ),
        distributed=bool(config.distribution_groups),
        graces=(stop_grace, min(stop_grace, contract.FAILURE_GRACE_SECONDS)),
    )


def _key(config: JobConfig, environ: Mapping[str, str]) -> bytes:
    """The user's, or one made of what only this job's hosts have in common."""
    given = environ.get(contract.CLUSTER_KEY)
    if given:
        return hashlib.sha256(given.encode(errors="surrogateescape")).digest()
    shared = [
        environ.get("TRAINING_JOB_ARN"),
        environ.get("TRAINING_JOB_NAME"),
        config.hosts,
        config.hyperparameters,
        config.framework_parameters,
        config.reserved_parameters,
    ]
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode("ascii")).digest()


def _wait_seconds(environ: Mapping[str, str]) -> float:
    text = environ.get(contract.CLUSTER_WAIT, "")
    if not text:
        return contract.CLUSTER_WAIT_SECONDS
    if not text.isascii() or not text.replace(".", "", 1).isdigit():
        raise JobDescriptionError(
            f"{contract.CLUSTER_WAIT} is {text!r}; expected seconds to wait for the other hosts, such as 600"
        )
    return float(text)
