"""The thread that keeps a launcher in touch with the other hosts' launchers, and with what Open MPI starts for it."""

from __future__ import annotations

import collections
import contextlib
import ipaddress
import logging
import math
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tf_toolkit.cluster.connection import GONE_SECONDS, Connection, Dropped, Gone
from tf_toolkit.cluster.door import Door
from tf_toolkit.cluster.leader import LATE_SECONDS, SLACK_SECONDS, Leader, failure_text, never_came
from tf_toolkit.contract import CLUSTER_FAILED
from tf_toolkit.errors import ClusterError
from tf_toolkit.frames import Message

log = logging.getLogger("tf_toolkit")

BEAT_SECONDS = 2.0
# A launcher counts as frozen when it has said nothing for so long, though its host is there.
SILENT_SECONDS = 60.0
_GREETING_SECONDS = 5.0
_MOST_STRANGERS = 128
_ACCEPTED_AT_ONCE = 16
_PROGRESS_SECONDS = 60.0
_FAREWELL_SECONDS = 2.0
_LONGEST_PAUSE = 1.0
_TICK_SECONDS = 0.5


class Place(NamedTuple):
    """Where this launcher stands in its job."""

    host: str
    hosts: tuple[str, ...]
    port: int
    key: bytes
    # Seconds to wait for hosts that have not come.
    wait: float
    distributed: bool
    # After a stop signal, and after a failure, in seconds.
    graces: tuple[float, float]

    @property
    def first(self) -> str:
        return self.hosts[0]


class Channel:
    """Passes messages between this host's launcher and the first host's decisions, in a thread of its own.

    ``deliver`` is called in that thread with each message for this host.
    """

    def __init__(self, place: Place, deliver: Callable[[Message], None], door: Door | None) -> None:
        self._place = place
        self._deliver_here = deliver
        self._selector = selectors.DefaultSelector()
        self._posted: collections.deque[Message] = collections.deque()
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._reader, selectors.EVENT_READ)
        self._began = self._beat_at = self._said_at = self._looked_at = time.monotonic()
        self._leader: Leader | None = None
        self._listener: socket.socket | None = None
        self._strangers: list[Connection] = []
        self._members: dict[str, Connection] = {}
        self._first: Connection | None = None
        self._refused = ""
        self._verdict = False
        # The verdict where the first host is lost, and how long it may be held back.
        self._alone: Message | None = None
        self._alone_until = math.inf
        self._leaving_at: float | None = None
        if door is not None:
            door.attach(self._selector, self.post, lambda: deliver({"type": "news"}))
        if place.host == place.first:
            self._leader = Leader(place.hosts, place.distributed, place.wait, place.graces, self._began)
            if len(place.hosts) > 1:
                self._listen()

    def post(self, message: Message) -> None:
        """Say something for this host; from any thread."""
        self._posted.append(message)
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b".")

    def start(self) -> None:
        threading.Thread(target=self._run, name="cluster", daemon=True).start()

    def _run(self) -> None:
        broke = True
        try:
            self._talk()
            broke = False
        finally:
            for connection in (*self._members.values(), *self._strangers, *filter(None, [self._first])):
                connection.close()
            if self._listener is not None:
                self._listener.close()
            self._deliver_here({"type": "left", "broke": broke})

    def _talk(self) -> None:
        if self._leader is not None:
            self._dispatch(self._leader.joined(self._place.host, time.monotonic()))
        else:
            self._join()
        while self._leaving_at is None or self._still_talking():
            self._handle_posted()
            self._keep_time()
            self._flush()
            self._looked_at = time.monotonic()
            for key, _ in self._selector.select(_TICK_SECONDS):
                self._ready(key.fileobj, key.data)

    # Joining.

    def _listen(self) -> None:
        place = self._place
        # A name may stand for several addresses; an address is one.
        address = place.host if _is_address(place.host) else ""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            self._listener = socket.create_server((address, place.port), family=family, backlog=256)
        except OSError as error:
            raise ClusterError(
                f"the first host cannot listen on port {place.port}, where the others are to join: {error.strerror}"
            ) from error
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _join(self) -> None:
        place = self._place
        pause = 0.05
        done_at = math.inf
        while self._first is None:
            now = time.monotonic()
            if any(message["type"] in ("ending", "quiet") for message in self._posted):
                done_at = min(done_at, now)
            if now - done_at > LATE_SECONDS or self._was_stopped():
                # What this host did is over, and the first has had time enough to come and hear of it.
                self._deliver_here({"type": "over"})
                self._leaving_at = now
                return
            if place.distributed and now - self._began > place.wait:
                why = f" ({self._refused})" if self._refused else ""
                self._end_alone(never_came([place.first], place.wait) + why)
                return
            try:
                self._connect()
            except (OSError, Dropped) as error:
                self._refused = (error.strerror if isinstance(error, OSError) else None) or str(error)
                self._say_progress(now, [place.first])
                for key, _ in self._selector.select(pause):
                    self._ready(key.fileobj, key.data)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _was_stopped(self) -> bool:
        return any(message["type"] == "ending" and message["signal"] is not None for message in self._posted)

    def _connect(self) -> None:
        place = self._place
        peer = socket.create_connection((place.first, place.port), timeout=_GREETING_SECONDS)
        connection = Connection(peer, place.key)
        try:
            connection.join(place.host, place.first, _GREETING_SECONDS)
        except (OSError, Dropped):
            connection.close()
            raise
        self._first = connection
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        log.info("cluster: joined %s", place.first)

    # Events.

    def _ready(self, source: Any, data: Any) -> None:
        if source == self._reader:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, 4096)
        elif source is self._listener:
            self._accept()
        elif isinstance(data, Connection):
            self._read(data)
        elif data is not None:
            data()

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            connection = Connection(peer, self._place.key)
            connection.challenge()
            self._strangers.append(connection)
            self._selector.register(peer, selectors.EVENT_READ, connection)
            if len(self._strangers) > _MOST_STRANGERS:
                self._drop_stranger(self._strangers[0])

    def _drop_stranger(self, connection: Connection) -> None:
        self._strangers.remove(connection)
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.socket)
        connection.close()

    def _read(self, connection: Connection) -> None:
        try:
            if connection in self._strangers:
                self._greet(connection)
                return
            for message in connection.receive():
                self._heard(connection, message)
        except Dropped as error:
            self._lost(connection, error)

    def _greet(self, connection: Connection) -> None:
        assert self._leader is not None
        if not connection.greeted(self._place.hosts):
            return
        host = str(connection.host)
        if host not in self._leader.missing():
            raise Dropped(f"{host} is here already")
        self._strangers.remove(connection)
        self._members[host] = connection
        log.info("cluster: %s has joined; %d missing", host, len(self._leader.missing()) - 1)
        self._dispatch(self._leader.joined(host, time.monotonic()))
        if not self._leader.missing() and self._listener is not None:
            # Everybody is here: whoever else knocks is not one of us.
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _heard(self, connection: Connection, message: Message) -> None:
        if message["type"] == "beat":
            return
        if self._leader is None:
            self._deliver(message)
        else:
            self._from_host(str(connection.host), message)

    def _lost(self, connection: Connection, error: Dropped | None = None) -> None:
        """Because of ``error``, or else of silence."""
        if connection in self._strangers:
            self._drop_stranger(connection)
            return
        now = time.monotonic()
        self._forget(connection)
        what = self._what_became_of(connection, error)
        if self._leader is None:
            self._first = None
            if not self._verdict and self._alone is None:
                self._end_alone(what)
            return
        host = str(connection.host)
        self._members.pop(host, None)
        self._dispatch(self._leader.gone(host, what, connection.heard, now))

    def _what_became_of(self, connection: Connection, error: Dropped | None) -> str:
        if error is not None and not isinstance(error, Gone):
            return f"host {connection.host} is gone: its launcher ended without a word"
        # Neither can tell the other any more, so both say the same.
        other = self._place.host if self._leader is None else connection.host
        seconds = SILENT_SECONDS if error is None else GONE_SECONDS
        return f"hosts {self._place.first} and {other} lost one another: nothing was heard for {seconds:.0f} s"

    def _handle_posted(self) -> None:
        while self._posted:
            message = self._posted.popleft()
            if self._leader is not None:
                self._from_host(self._place.host, message)
            elif self._first is not None:
                self._first.send(message)
            elif self._alone is not None:
                self._answer_alone(message["type"], message.get("ending", True))

    def _answer_alone(self, said: str, ending: bool) -> None:
        """Say to this host what the first would."""
        if said in ("quiet", "ended") and ending:
            self._deliver({"type": "over"})
        if said == "ended" and self._alone is not None:
            self._deliver(self._alone)

    def _from_host(self, host: str, message: Message) -> None:
        """Something that a host says to the first one, where this is the first."""
        assert self._leader is not None
        if "to" in message:
            # For another host's launcher, by way of this one.
            self._send(message["to"], {**message, "from": host})
        else:
            self._dispatch(self._leader.said(host, message, time.monotonic()))

    def _dispatch(self, replies: Any) -> None:
        for host, message in replies:
            self._send(host, message)

    def _send(self, host: str, message: Message) -> None:
        if host == self._place.host:
            self._deliver(message)
        elif host in self._members:
            self._members[host].send(message)

    def _deliver(self, message: Message) -> None:
        if message["type"] == "verdict":
            self._verdict = True
            self._leaving_at = time.monotonic()
        self._deliver_here(message)

    def _end_alone(self, what: str) -> None:
        """The first host cannot be asked: end this one's processes, and then give the verdict here."""
        self._alone = {"type": "verdict", "status": CLUSTER_FAILED, "failure": failure_text(what)}
        self._alone_until = time.monotonic() + self._place.graces[1] + SLACK_SECONDS
        self._deliver({"type": "stop", "signal": None, "lost": True})

    # Time.

    def _keep_time(self) -> None:
        now = time.monotonic()
        if now - self._beat_at >= BEAT_SECONDS:
            self._beat_at = now
            for connection in self._connections():
                connection.send({"type": "beat"})
        for connection in list(self._connections()):
            # What came while this launcher got no CPU has been read by now.
            if self._looked_at - connection.heard > SILENT_SECONDS:
                self._lost(connection)
        for stranger in list(self._strangers):
            if now - stranger.since > _GREETING_SECONDS:
                self._drop_stranger(stranger)
        if self._alone is not None and now > self._alone_until:
            self._answer_alone("ended", True)
        if self._leader is not None and not self._verdict:
            self._say_progress(now, self._leader.missing())
            self._dispatch(self._leader.tick(now))

    def _say_progress(self, now: float, missing: list[str]) -> None:
        if missing and now - self._said_at >= _PROGRESS_SECONDS:
            self._said_at = now
            log.info("cluster: waiting for %s, %.0f s by now", ", ".join(missing), now - self._began)

    def _flush(self) -> None:
        for connection in [*self._connections(), *self._strangers]:
            try:
                connection.flush()
            except Dropped as error:
                self._lost(connection, error)

    def _connections(self) -> Iterator[Connection]:
        yield from list(self._members.values())
        if self._first is not None:
            yield self._first

    def _still_talking(self) -> bool:
        """After the verdict: until everybody has it, so that this host's network does not go away with it."""
        assert self._leaving_at is not None
        return bool(self._members) and time.monotonic() - self._leaving_at < _FAREWELL_SECONDS


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
