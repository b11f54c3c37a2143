"""The program ``train``: the platform runs ``docker run IMAGE train``. Six stages in order, nothing else.

Arguments: given to the script after its hyperparameters. Environment: README, "The contract in tables". Reads and
writes the tree under /opt/ml, or SAGEMAKER_BASE_DIR. Standard output is the script's; standard error is the script's
and our log. Exit codes: contract.py.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tf_toolkit import signals, supervisor, sync
from tf_toolkit.config import JobConfig, read_config
from tf_toolkit.contract import LEFT_OUT_FILE, LOG_FORMAT, STOP_GRACE, STOP_GRACE_SECONDS, Paths
from tf_toolkit.environment import build_environment, fit
from tf_toolkit.errors import JobDescriptionError
from tf_toolkit.hardware import detect_hardware
from tf_toolkit.process import Exit, ProcessSpec
from tf_toolkit.report import Report, warn_about_model
from tf_toolkit.s3 import bucket_region
from tf_toolkit.strategies import choose, mpi
from tf_toolkit.user_code import install_user_code

if TYPE_CHECKING:
    from tf_toolkit.cluster import Cluster

log = logging.getLogger("tf_toolkit")

_LONGEST_GRACE = 86_400


def main() -> None:
    """Run the job that the tree describes; the process ends with its status."""
    paths = Paths.of(os.environ)
    report = Report(paths, os.environ)
    _start_log(report)
    signals.listen()
    sys.exit(report.of(lambda: train(paths, os.environ, sys.argv[1:], report)))


def train(paths: Paths, environ: Mapping[str, str], arguments: Sequence[str], report: Report) -> Exit | None:
    """The stages; how the user's script ended, or None where this host had none to run."""
    with contextlib.ExitStack() as until_the_end:
        with signals.interruptible():
            with stage("read") as said:
                config = read_config(paths, environ)
                report.knows(config)
                log.setLevel(config.log_level)
                stop_grace = _stop_grace(environ)
                name, strategy = choose(config)
                channels = ", ".join(config.channels) or "none"
                said.append(f"host {config.current_host} of {len(config.hosts)}; channels: {channels}")
            # From here on the other hosts know what becomes of this one.
            cluster = until_the_end.enter_context(_joined(config, name, environ, stop_grace, report))
            with stage("describe") as said:
                hardware = detect_hardware(config.instance_type, environ)
                env = build_environment(config, hardware, paths, environ, arguments)
                ours = {**bucket_region(config, env.variables), **(cluster.variables if cluster else {})}
                env = env._replace(variables={**env.variables, **ours})
                said.append(f"{hardware.cpus} CPUs, {hardware.gpus} GPUs, {hardware.neurons} Neuron cores")
                for warning in (*config.warnings, *hardware.warnings):
                    log.warning("%s", warning)
            with stage("install") as said:
                _make_directories(paths)
                command = install_user_code(config, paths, env.variables, stop_grace)
                said.append(f"code in {command.directory}")
            with stage("decide") as said:
                specs = strategy.processes(config, command, env)
                uploader = sync.companion(config, paths, env.variables)
                said.append(f"{name}: {report.shown(specs[0].argv) if specs else 'nothing to start on this host yet'}")
            if cluster is not None:
                with stage("meet") as said:
                    if name == "mpi":
                        argv, directory = mpi.rank_command(config, command, env)
                        daemon = functools.partial(mpi.daemon, config, command, env)
                        cluster.runs(ProcessSpec("rank", argv, {}, directory), lambda words: fit(daemon(words))[0])
                        log.info("each rank runs %s", report.shown(argv))
                    cluster.meet()
                    said.append(f"hosts: {', '.join(config.hosts)}")
            _announce_start(paths)
        with stage("run") as said, _fitting(specs) as fitted:
            exits = supervisor.run([*fitted, *filter(None, [uploader])], stop_grace, peers=cluster)
            end = first_failure(exits)
            said.append(f"{end.spec.role} ended with status {end.status}" if end else "nothing failed on this host")
            if end is not None and (log.isEnabledFor(logging.INFO) or end.status != 0):
                _end_the_line(end.stderr)
    if (end is None or end.status == 0) and config.current_host == config.master:
        warn_about_model(paths.model)
    return end


def first_failure(exits: Sequence[Exit]) -> Exit | None:
    """The exit that decides the job: the first of its processes to fail, or the first process if none did.

    A companion's failure is its own to report; the script's result stands.
    """
    main = [end for end in exits if not end.spec.companion]
    failed = [end for end in main if end.status != 0]
    return min(failed, key=lambda end: (end.told, end.began)) if failed else next(iter(main), None)


@contextlib.contextmanager
def _joined(
    config: JobConfig, strategy: str, environ: Mapping[str, str], stop_grace: float, report: Report
) -> Iterator[Cluster | None]:
    """The job's hosts, where there are several, or where Open MPI is to find this one's launcher."""
    if len(config.hosts) == 1 and strategy != "mpi":
        yield None
        return
    # Only a job that needs it pays for it.
    from tf_toolkit.cluster import Cluster, place

    where = place(config, environ, stop_grace)
    if strategy != "mpi":
        cluster = Cluster(where)
        report.agrees(lambda outcome: outcome._replace(**cluster.agree(*outcome)._asdict()))
        yield cluster
        return
    import tempfile

    with tempfile.TemporaryDirectory(prefix="tf-toolkit-") as directory:
        cluster = Cluster(where, Path(directory) / "door", lambda node: mpi.host_of_node(config, node))
        report.agrees(lambda outcome: outcome._replace(**cluster.agree(*outcome)._asdict()))
        yield cluster


@contextlib.contextmanager
def stage(name: str) -> Iterator[list[str]]:
    """Log one line when a stage is done: its name, what it said, and its duration in seconds."""
    started = time.monotonic()
    said: list[str] = []
    yield said
    log.info("%s: %s (%.3f s)", name, " ".join(said), time.monotonic() - started)


def _start_log(report: Report) -> None:
    """To standard error, so that standard output is the script's alone."""
    logging.raiseExceptions = False
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    handler.addFilter(report.mask)
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)


def _stop_grace(environ: Mapping[str, str]) -> float:
    text = environ.get(STOP_GRACE, "")
    if not text:
        return STOP_GRACE_SECONDS
    if not text.isascii() or not text.replace(".", "", 1).isdigit() or float(text) > _LONGEST_GRACE:
        raise JobDescriptionError(
            f"{STOP_GRACE} is {text!r}; expected seconds between TERM and KILL, such as 30, at most {_LONGEST_GRACE}"
        )
    return float(text)


def _announce_start(paths: Paths) -> None:
    """Let `tf-toolkit run` clear the line that it draws on the terminal, before the script's output comes there.

    It reads the FIFO, and holds a lock on it until it is done. Elsewhere there is none, or nobody who reads it.
    """
    with contextlib.suppress(OSError):
        fifo = os.open(paths.starting, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            import fcntl

            os.write(fifo, b".")
            fcntl.flock(fifo, fcntl.LOCK_SH)
        finally:
            os.close(fifo)


def _make_directories(paths: Paths) -> None:
    """What the platform mounts and a bare ``docker run`` does not; scripts write there without asking."""
    for directory in (paths.model, paths.output_data):
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.warning("%s cannot be made: %s", directory, error.strerror)


@contextlib.contextmanager
def _fitting(specs: Sequence[ProcessSpec]) -> Iterator[list[ProcessSpec]]:
    """The processes with environments that the kernel takes; what is left out can be read from a file meanwhile."""
    fitted: list[ProcessSpec] = []
    left_out: dict[str, str] = {}
    for spec in specs:
        smaller, missing = fit(spec)
        fitted.append(smaller)
        left_out |= missing
    if not left_out:
        yield fitted
        return
    import json
    import tempfile

    with tempfile.NamedTemporaryFile("w", prefix="tf-toolkit-left-out-", suffix=".json") as file:
        json.dump(left_out, file)
        file.flush()
        log.warning(
            "too large for the environment, left out of it and to be read from %s: %s", file.name, ", ".join(left_out)
        )
        yield [spec._replace(env={**spec.env, LEFT_OUT_FILE: file.name}) for spec in fitted]


def _end_the_line(stderr: bytes) -> None:
    """Our next line starts a line of its own, whatever the script wrote last."""
    if stderr and not stderr.endswith(b"\n"):
        with contextlib.suppress(OSError):
            os.write(2, b"\n")


if __name__ == "__main__":
    main()
