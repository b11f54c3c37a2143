"""``tf-toolkit run --image``: the hosts of a job as containers on a network of their own, from start to end.

Nothing of them is left on the daemon, however the run ends short of KILL, unless the results could not be copied out.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from tf_toolkit import contract, signals
from tf_toolkit.contract import Paths
from tf_toolkit.local import hosts
from tf_toolkit.local.containers import copies
from tf_toolkit.local.containers.client import DockerError
from tf_toolkit.local.containers.daemon import Bind, Daemon, connected
from tf_toolkit.local.containers.streams import Streams
from tf_toolkit.local.feeder import Feeder
from tf_toolkit.local.job import Container, Job
from tf_toolkit.local.terminal import say
from tf_toolkit.supervisor import HEARING_SECONDS

# After this a host that has written nothing is sent signals nevertheless. A container's first process is spared those
# that it does not listen to, so that a stop that came too early would be lost.
_LISTENING_SECONDS = 5.0
# For what hosts wrote last to be read, where they were to end; else it takes what it takes.
_READING_SECONDS = 10.0
_FAILURE = Paths(Path(contract.BASE_DIR)).failure


def run_in_containers(job: Job, options: Container, stop_grace: float, feeder: Feeder) -> list[int]:
    """Run the job to its end; each host's exit status. Its results lie in the job's root.

    A stop signal is forwarded; KILL follows after ``stop_grace`` seconds.

    Raises DockerError, UsageError and OSError.
    """
    with signals.interruptible(False), _no_input_left(job), connected(job.name) as daemon:
        with feeder.feeding():
            with signals.interruptible():
                ids = _make(job, options, daemon)
            statuses = _Run(daemon, options, ids).to_the_end(stop_grace)
        try:
            copies.copy_results(job, daemon, ids)
        except (DockerError, OSError):
            # A full disk, say. They are nowhere else.
            daemon.keep()
            raise
    return statuses


@contextmanager
def _no_input_left(job: Job) -> Iterator[None]:
    """Remove the directories of FIFOs at the end. They are mounts, without which nothing can be copied out."""
    try:
        yield
    finally:
        for paths in map(job.tree, job.hosts):
            for directory in (paths.input_data, paths.input):
                with suppress(OSError):
                    directory.rmdir()


def _make(job: Job, options: Container, daemon: Daemon) -> dict[str, str]:
    """Make what the job needs on the daemon; the containers' ids by host."""
    image = daemon.image(options.image)
    if job.pipe_mode is not None:
        daemon.check_pipes()
    with copies.packed_code(job) as code:
        daemon.network()
        daemon.volume()
        ids: dict[str, str] = {}
        for host, variables in _variables(job, options).items():
            ids[host] = daemon.container(host, image, job.arguments, options, variables, _binds(job, host))
            daemon.put(ids[host], copies.configuration(job, host))
            daemon.put(ids[host], code)
    names = f"{daemon.run}-{job.hosts[0]}" + (f" to {job.hosts[-1]}" if len(job.hosts) > 1 else "")
    say(f"{options.image} runs in {'containers' if len(job.hosts) > 1 else 'container'} {names}")
    return ids


def _binds(job: Job, host: str) -> list[Bind]:
    """What a host's container sees of this machine."""
    inside = job.inside(host).input_data
    if job.pipe_mode is not None:
        return [Bind("the FIFOs of channels in Pipe mode", job.tree(host).input_data, inside)]
    return [
        Bind(f"channel {name!r}", path, inside / name if path.is_dir() else inside / name / path.name)
        for name, path in job.channels.items()
    ]


def _variables(job: Job, options: Container) -> dict[str, dict[str, str]]:
    """The environment of each host's container, besides the image's own."""
    variables = {
        **options.variables,
        "SAGEMAKER_BASE_DIR": contract.BASE_DIR,
        "TRAINING_JOB_NAME": job.name,
    }
    if len(job.hosts) > 1:
        variables[contract.CLUSTER_KEY] = hosts.key(options.variables)
    return dict.fromkeys(job.hosts, variables)


class _Host:
    """The container of one host, once it was made."""

    def __init__(self, name: str, container: str) -> None:
        self.name = name
        self.container = container
        self.status: int | None = None
        self.ended_at = math.inf
        # It failed and left no word of it, as whoever is killed.
        self.silent = False
        self.killed_for_memory = False
        self.error: DockerError | None = None
        # Whoever has written something listens to signals by then; until then they wait here.
        self.writes = False
        self.listens_at = math.inf
        self.signals: list[int] = []
        # All that it wrote is passed on.
        self.written = False

    @property
    def running(self) -> bool:
        return self.status is None and self.error is None

    @property
    def listens(self) -> bool:
        return self.writes or time.monotonic() >= self.listens_at

    def pass_on(self, daemon: Daemon, streams: Streams) -> None:
        """Start a thread that passes on what the container will write."""
        frames = daemon.output(self.container)

        def pass_on() -> None:
            try:
                for to_stdout, piece in frames:
                    if not self.writes:
                        self.writes = True
                        signals.wake()
                    streams.feed(to_stdout, piece)
                streams.flush()
            finally:
                self.written = True
                signals.wake()

        threading.Thread(target=pass_on, daemon=True).start()

    def start(self, daemon: Daemon, options: Container) -> None:
        """Start the container, and a thread that waits for its end."""
        daemon.start(self.container, options)
        self.listens_at = time.monotonic() + _LISTENING_SECONDS

        def watch() -> None:
            try:
                status = daemon.wait(self.container)
                self.silent = status != 0 and not daemon.holds(self.container, _FAILURE)
                self.killed_for_memory = self.silent and daemon.killed_for_memory(self.container)
                self.ended_at = time.monotonic()
                self.status = status
            except DockerError as error:
                self.error = error
            signals.wake()

        threading.Thread(target=watch, daemon=True).start()

    def send_signals(self, daemon: Daemon) -> None:
        """Send those that it was to get, if it can hear them."""
        while self.running and self.listens and self.signals:
            daemon.kill(self.container, self.signals.pop(0))

    def say_how_it_died(self) -> None:
        """Where it left no word of that itself."""
        if self.silent:
            memory = ", killed for want of memory" if self.killed_for_memory else ""
            say(f"{self.name} ended with status {self.status} and without a word{memory}")


class _Run:
    def __init__(self, daemon: Daemon, options: Container, ids: dict[str, str]) -> None:
        self._daemon = daemon
        self._kill_at = math.inf
        # They are being ended, because they were told to or because one was killed.
        self._ending = False
        self.hosts = [_Host(name, container) for name, container in ids.items()]
        lock = threading.Lock()
        several = len(ids) > 1
        for host in self.hosts:
            # One host's line after another's.
            around = (lambda: lock) if several else nullcontext
            host.pass_on(daemon, Streams(f"[{host.name}] " if several else "", around))
        for host in self.hosts:
            with signals.interruptible():
                # A stop that came meanwhile: before all hosts are there, there is nothing to save.
                pass
            host.start(daemon, options)

    def to_the_end(self, stop_grace: float) -> list[int]:
        """Forward, wait and escalate; each host's exit status."""
        while True:
            for number in signals.taken():
                if number in signals.ESCALATED:
                    self._ending = True
                    self._kill_at = min(self._kill_at, time.monotonic() + stop_grace)
                self._send(number)
            self._end_others_of_silent()
            self._end_the_misfed()
            if time.monotonic() >= self._kill_at:
                self._send(signal.SIGKILL)
                self._kill_at = math.inf
            for host in self.hosts:
                host.send_signals(self._daemon)
            if self._is_over():
                break
            held = [host.listens_at for host in self.hosts if host.running and host.signals]
            moment = min(self._kill_at, self._heard_by(), self._read_by(), *held)
            signals.sleep(None if moment == math.inf else moment - time.monotonic())
        for host in self.hosts:
            if host.error is not None:
                raise host.error
            host.say_how_it_died()
        return [host.status or 0 for host in self.hosts]

    def _is_over(self) -> bool:
        if any(host.error is not None for host in self.hosts):
            return True
        if any(host.running for host in self.hosts):
            return False
        return all(host.written for host in self.hosts) or self._read_by() <= time.monotonic()

    def _read_by(self) -> float:
        """How long to wait for whoever reads our streams, once all hosts have ended."""
        if not self._ending or any(host.running for host in self.hosts):
            return math.inf
        return max(host.ended_at for host in self.hosts) + _READING_SECONDS

    def _send(self, number: int) -> None:
        for host in self.hosts:
            host.signals.append(number)

    def _heard_by(self) -> float:
        """When all hosts should have heard of one that ended without a word."""
        if self._ending or not any(host.running for host in self.hosts):
            return math.inf
        return min(host.ended_at + HEARING_SECONDS if host.silent else math.inf for host in self.hosts)

    def _end_others_of_silent(self) -> None:
        if self._heard_by() <= time.monotonic():
            self._end_after_failure()

    def _end_the_misfed(self) -> None:
        """Where a channel in Pipe mode cannot be fed any more."""
        if signals.interrupted() and not self._ending:
            self._end_after_failure()

    def _end_after_failure(self) -> None:
        self._ending = True
        self._kill_at = time.monotonic() + contract.FAILURE_GRACE_SECONDS
        self._send(signal.SIGTERM)
