"""One connection between two launchers: both prove that they know the job's key, and every message is signed.

A stranger is told nothing but a random number, holds at most a kibibyte, and is dropped when it has proven nothing in
time. HMAC with SHA-256: RFC 2104.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import socket
import time

from tf_toolkit import frames
from tf_toolkit.frames import Message

# What a host says before it has proven anything: a name, a random number and a proof.
_LONGEST_GREETING = 1024
_MAC_BYTES = 32
_PIECE = 64 * 1024
# What may wait to be sent to a host that does not read; its silence is noticed long before.
_LONGEST_BACKLOG = 8 << 20
# A host is gone when its kernel has answered nothing for so long. Not its launcher, which may get no CPU: ranks
# that spin have kept it from the container beside theirs for 20 s and more.
GONE_SECONDS = 20
_PROBE_SECONDS = 2
_GONE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})


class Dropped(Exception):
    """The connection is over; the message says why."""


class Gone(Dropped):
    """The other host is gone, or the network between."""


class Connection:
    """A non-blocking socket with the messages that came and those that are to go."""

    def __init__(self, peer: socket.socket, key: bytes) -> None:
        peer.setblocking(False)
        with contextlib.suppress(OSError):
            _set_options(peer)
        self.socket = peer
        self.since = self.heard = time.monotonic()
        # The other host's name, once it has proven that it is of this job.
        self.host: str | None = None
        self._key = key
        self._nonce = os.urandom(16).hex()
        self._session: bytes | None = None
        self._counts = {"in": 0, "out": 0}
        self._directions = ("in", "out")
        self._received = b""
        self._to_send = b""

    # The first host's side of the greeting.

    def challenge(self) -> None:
        self._put(frames.dump({"type": "challenge", "nonce": self._nonce}))

    def greeted(self, hosts: tuple[str, ...]) -> bool:
        """Read what a stranger says; whether it has now proven to be one of ``hosts``. Raises Dropped."""
        for content in self._contents(_LONGEST_GREETING, 1):
            greeting = _load(content)
            host, nonce = str(greeting.get("host")), str(greeting.get("nonce"))
            if not _same(greeting.get("proof"), self._proof("join", host, self._nonce, nonce)):
                raise Dropped("it does not know the job's key")
            if host not in hosts:
                raise Dropped(f"{host!r} is no host of this job")
            self._put(frames.dump({"type": "welcome", "proof": self._proof("welcome", host, nonce, self._nonce)}))
            self._begin(host, self._nonce, nonce)
            self._directions = ("from member", "from first")
            return True
        return False

    # The other hosts' side.

    def join(self, host: str, first: str, seconds: float) -> None:
        """Prove to the first host who we are, and have it prove the same. Blocks. Raises OSError and Dropped."""
        self.socket.settimeout(seconds)
        nonce = str(self._answer().get("nonce"))
        proof = self._proof("join", host, nonce, self._nonce)
        frames.send(self.socket, {"type": "join", "host": host, "nonce": self._nonce, "proof": proof})
        if not _same(self._answer().get("proof"), self._proof("welcome", host, self._nonce, nonce)):
            raise Dropped("it does not know the job's key")
        self._begin(host, nonce, self._nonce)
        self.host = first
        self._directions = ("from first", "from member")
        self.socket.setblocking(False)

    def _answer(self) -> Message:
        try:
            answer = frames.receive(self.socket)
        except ValueError as error:
            raise Dropped(f"it is no launcher of this job: {error}") from error
        if answer is None:
            raise Dropped("it closed the connection: another key, or not a host of its job")
        return answer

    # Both.

    def send(self, message: Message) -> None:
        """Queue a message; :meth:`flush` sends."""
        content = frames.dump(message)
        self._put(self._mac(self._directions[1], content) + content)
        if len(self._to_send) > _LONGEST_BACKLOG:
            raise Dropped("it reads nothing")

    def receive(self) -> list[Message]:
        """The messages that have come. Raises Dropped at the end, and for anything that is not signed."""
        messages = []
        for signed in self._contents(frames.LONGEST, 1000):
            mac, content = signed[:_MAC_BYTES], signed[_MAC_BYTES:]
            if not hmac.compare_digest(mac, self._mac(self._directions[0], content)):
                raise Dropped("it sent what it did not sign")
            messages.append(_load(content))
        return messages

    def flush(self) -> None:
        """Send what the socket takes. Raises Dropped."""
        try:
            while self._to_send:
                self._to_send = self._to_send[self.socket.send(self._to_send[:_PIECE]) :]
        except BlockingIOError:
            return
        except OSError as error:
            raise _dropped(error) from error

    def close(self) -> None:
        self.socket.close()

    def _begin(self, host: str, first_nonce: str, nonce: str) -> None:
        self.host = host
        self._session = self._hmac(self._key, "session", host, first_nonce, nonce)
        self._counts = {"from first": 0, "from member": 0}

    def _put(self, content: bytes) -> None:
        self._to_send += frames.encode(content)

    def _contents(self, longest: int, most: int) -> list[bytes]:
        try:
            piece = self.socket.recv(_PIECE)
        except BlockingIOError:
            piece = None
        except OSError as error:
            raise _dropped(error) from error
        if piece == b"":
            raise Dropped("it closed the connection")
        self.heard = time.monotonic()
        try:
            contents, self._received = frames.cut(self._received + (piece or b""), longest)
        except ValueError as error:
            raise Dropped(str(error)) from error
        if len(contents) > most:
            raise Dropped("it says more than it should")
        return contents

    def _mac(self, direction: str, content: bytes) -> bytes:
        assert self._session is not None
        number = self._counts[direction]
        self._counts[direction] += 1
        return hmac.new(self._session, f"{direction}|{number}|".encode() + content, hashlib.sha256).digest()

    def _proof(self, *words: str) -> str:
        return self._hmac(self._key, *words).hex()

    @staticmethod
    def _hmac(key: bytes, *words: str) -> bytes:
        return hmac.new(key, "\0".join(words).encode(errors="replace"), hashlib.sha256).digest()


def _set_options(peer: socket.socket) -> None:
    """Send at once, and ask the other's kernel whether it is there: tcp(7)."""
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * GONE_SECONDS)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_SECONDS)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _dropped(error: OSError) -> Dropped:
    return (Gone if error.errno in _GONE else Dropped)(error.strerror or str(error))


def _same(found: object, expected: str) -> bool:
    return hmac.compare_digest(str(found).encode(errors="replace"), expected.encode())


def _load(content: bytes) -> Message:
    try:
        return frames.load(content)
    except ValueError as error:
        raise Dropped(f"it sent no message: {error}") from error
