"""``tf-toolkit doctor``: whether this image and this machine are fit for jobs, a line for each check.

Nothing is installed or left behind. The checks run side by side, since frameworks take their time to import, and no
framework is ever imported here. Each has the same time, so that all is over by then, whatever hangs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

from tf_toolkit import signals
from tf_toolkit.contract import Paths
from tf_toolkit.hardware import detect_hardware
from tf_toolkit.local.doctor import gpus, job, machine, mpi, software
from tf_toolkit.local.doctor.check import FAIL, PASS, WARN, Check, failed
from tf_toolkit.local.doctor.later import Later, NoAnswerError, Processes

# Of which frameworks take a tenth on a small, idle machine.
SECONDS = 180.0
# For what ends processes that did not in time.
_MORE_SECONDS = 10.0
_NAME_WIDTH = 19
_COLOURS = {PASS: "32", WARN: "33", FAIL: "31"}


def doctor(environ: Mapping[str, str], as_json: bool, seconds: float = SECONDS) -> int:
    """Print what the checks find; 0 if none failed, else 1."""
    with signals.interruptible():
        processes = Processes(environ, time.monotonic() + seconds)
        try:
            found = []
            for check in _checks(processes):
                found.append(check)
                if not as_json:
                    print(_line(check, sys.stdout, environ), flush=True)
        finally:
            processes.end()
    if as_json:
        print(json.dumps([_object(check) for check in found], indent=2))
    return 1 if any(check.state == FAIL for check in found) else 0


def _checks(processes: Processes) -> Iterator[Check]:
    """Start all checks; what each finds, in their order, as soon as it has."""
    until = processes.until + _MORE_SECONDS
    environ = processes.environ
    paths = Paths.of(environ)
    described = Later(lambda: job.read(paths, environ))
    tensorflow = Later(lambda: software.look_at_tensorflow(processes))
    open_mpi = Later(lambda: mpi.look_at_mpirun(processes, described.get(until).config))
    # In this thread, where a stop interrupts it, and it ends its tools.
    hardware = detect_hardware("", environ)
    library = Later(lambda: gpus.library(hardware, processes))
    order: Sequence[tuple[str, Callable[[], Check]]] = (
        ("Python", software.python),
        ("train", lambda: software.train(environ.get("PATH", os.defpath))),
        ("requirements", lambda: software.requirements(processes)),
        ("S3", lambda: software.s3(processes)),
        ("CPUs", machine.cpus),
        ("memory", machine.memory),
        ("shared memory", lambda: machine.shared_memory(hardware)),
        ("temporary files", machine.temporary_files),
        ("disk", lambda: machine.disk(paths)),
        ("results", lambda: machine.results(paths)),
        ("TensorFlow", lambda: software.tensorflow(tensorflow.get(until))),
        ("mpirun", lambda: open_mpi.get(until).check),
        ("mpi4py", lambda: mpi.mpi4py(open_mpi.get(until))),
        # After TensorFlow, which its ranks import too: a small machine has no memory for all at once.
        ("Horovod", lambda: mpi.horovod(open_mpi.get(until), tensorflow.get(until))),
        ("GPU driver", lambda: gpus.driver(hardware)),
        ("GPU library", lambda: library.get(until)),
        ("GPU framework", lambda: gpus.framework(hardware, library.get(until), tensorflow.get(until), environ)),
        ("job", lambda: described.get(until).check),
        ("network interface", lambda: job.interface(described.get(until))),
        ("hosts", lambda: job.hosts(described.get(until))),
    )
    for name, later in [(name, Later(check)) for name, check in order]:
        try:
            yield later.get(until)
        except NoAnswerError:
            yield failed(name, "no answer", "what it looks at hangs; try again on an idle machine")


def _line(check: Check, stream: TextIO, environ: Mapping[str, str]) -> str:
    state = check.state
    if stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb":
        state = f"\x1b[{_COLOURS[state]}m{state}\x1b[0m"
    line = f"{state}  {check.name:{_NAME_WIDTH}}{_shown(check.found)}"
    return f"{line}\n      {'':{_NAME_WIDTH}}{_shown(check.remedy)}" if check.remedy else line


def _shown(text: str) -> str:
    """In one line, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def _object(check: Check) -> dict[str, str | None]:
    return {"check": check.name, "state": check.state, "found": check.found, "remedy": check.remedy or None}
