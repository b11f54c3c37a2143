"""Stage 6, report: the one error boundary. Every way that a job can end becomes a result file and an exit status.

The platform shows the first 1,024 characters of output/failure as the job's FailureReason
(https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-output.html), so the cause stands there.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import shlex
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tf_toolkit import contract, hardware
from tf_toolkit.config import JobConfig
from tf_toolkit.contract import Paths
from tf_toolkit.errors import (
    ClusterError,
    ExecuteUserScriptError,
    PeersEnding,
    ResultError,
    Stopped,
    ToolkitError,
    UserCodeError,
)
from tf_toolkit.masking import masked_arguments, secret_values, without
from tf_toolkit.process import Exit, signal_name

log = logging.getLogger("tf_toolkit")

# So that the headline, the status and the message all stand in the 1,024 characters.
_HEADLINE = 460
_MESSAGE = 230
_COMMAND = 230
_PROBE_BYTES = 4096


class Outcome(NamedTuple):
    """The end of a job; ``failure`` is the text of the failure file, None for success."""

    status: int
    failure: str | None
    # When the end began, on the monotonic clock, and the stop signal that it came by, if any.
    began: float = math.inf
    stopped_by: int | None = None
    # Another process's failure came before it.
    told: bool = False


# Given how the job ended on this host, gives how it ended on all of them.
Agree = Callable[[Outcome], Outcome]


class Report:
    """Turns the end of a job into output/success or output/failure, and the exit status."""

    def __init__(self, paths: Paths, environ: Mapping[str, str]) -> None:
        self._paths = paths
        self._secrets = secret_values(environ)
        self._host = ""
        self._agree: Agree = lambda outcome: outcome

    def knows(self, config: JobConfig) -> None:
        """Tell of the job what the report needs: which host this is, and what must not be printed."""
        self._secrets |= secret_values(config.hyperparameters, config.framework_parameters, config.reserved_parameters)
        self._host = f" on host {config.current_host}" if len(config.hosts) > 1 else ""

    def agrees(self, agree: Agree) -> None:
        """Tell how to find what the job's hosts report in common."""
        self._agree = agree

    def shown(self, argv: Sequence[str]) -> str:
        """A command as it may be printed. Masked before it is quoted, for quoting changes what a secret looks like."""
        return shlex.join(without(argument, self._secrets) for argument in masked_arguments(argv))

    def mask(self, record: logging.LogRecord) -> bool:
        """A filter for the log: no secret that is known stands in any line."""
        record.msg, record.args = without(record.getMessage(), self._secrets), ()
        return True

    def of(self, job: Callable[[], Exit | None]) -> int:
        """Run the job and report how it ended, which for a host without a script is nothing; the exit status."""
        try:
            self._prepare()
            outcome = self._of_exit(job())
        except Stopped as stop:
            outcome = self._stopped(stop.signal_number, None)
        except PeersEnding:
            outcome = Outcome(
                contract.CLUSTER_FAILED, f"{ClusterError.fault}: the job ended on another host\n", told=True
            )
        except ToolkitError as error:
            outcome = self._of_error(error)
        except Exception as error:
            outcome = self._of_fault(error)
        if outcome.failure is None:
            outcome = self._prove_room()
        outcome = self._common(outcome)
        if outcome.failure is None:
            outcome = self._write_success()
        if outcome.failure is not None:
            self._write_failure(outcome.failure)
        return outcome.status

    def _prepare(self) -> None:
        """Results of an earlier run in the same tree would be lies about this one."""
        try:
            self._paths.output.mkdir(parents=True, exist_ok=True)
            for stale in (self._paths.success, self._paths.failure):
                stale.unlink(missing_ok=True)
            if not os.access(self._paths.output, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self._paths.output))
        except OSError as error:
            raise ResultError(
                f"{error.filename}: {error.strerror}: no result can be written; "
                f"mount a writable directory at {self._paths.output}"
            ) from error

    def _common(self, outcome: Outcome) -> Outcome:
        if outcome.began == math.inf:
            outcome = outcome._replace(began=time.monotonic())
        try:
            return self._agree(outcome)
        except ToolkitError as error:
            return outcome if outcome.failure is not None else self._of_error(error)

    def _of_exit(self, end: Exit | None) -> Outcome:
        if end is None or end.status == 0:
            return Outcome(0, None)
        if end.stopped_by is not None:
            return self._stopped(end.stopped_by, end)
        from tf_toolkit.diagnosis import find_cause  # Only a job that failed pays for it.

        cause = find_cause(end)
        how = _how_it_ended(end)
        memory = _out_of_memory(end)
        fault, where = _who(end, self._host)
        # What a server logged last is not why somebody killed it.
        said = "" if fault != UserCodeError.fault and end.signal_number else _with_place(cause.message, cause.place)
        what = "; ".join(filter(None, [memory, said, how]))
        headline = f"{fault}: {what}{where}"
        return self._failure(headline, end, ExecuteUserScriptError.__name__, cause.message, memory, cause.text)

    def _stopped(self, number: int, end: Exit | None) -> Outcome:
        asked = f"stopped: {signal_name(number)} asked the job to end"
        if end is None:
            return Outcome(
                contract.SIGNAL_BASE + number,
                f"{asked} before the script was started{self._host}\nExitCode {contract.SIGNAL_BASE + number}\n",
                stopped_by=number,
            )
        killed = ", for it was still running after the grace" if end.signal_number == 9 else ""
        headline = f"{asked}; the script ended: {_how_it_ended(end)}{killed}{self._host}"
        return self._failure(headline, end)._replace(stopped_by=number)

    def _of_error(self, error: ToolkitError) -> Outcome:
        name = type(error).__name__
        headline = f"{error.fault}: {_cut(str(error), _HEADLINE * 2)}{self._host}"
        return Outcome(error.exit_code, self._safe(f"{headline}\n{name}:\nExitCode {error.exit_code}\n{error.details}"))

    def _of_fault(self, error: Exception) -> Outcome:
        """A fault of ours; or of a full disk or another limit of the machine, which the text then names."""
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        log.error("%s", "".join(lines))
        what = _cut("".join(traceback.format_exception_only(type(error), error)).strip(), _HEADLINE)
        headline = f"{ToolkitError.fault}: {what}{self._host}"
        text = f"{headline}\nFramework Error:\nExitCode {contract.TOOLKIT_FAULT}\n{''.join(lines)}"
        return Outcome(contract.TOOLKIT_FAULT, self._safe(text))

    def _failure(
        self, headline: str, end: Exit, name: str = "", message: str = "", extra: str = "", text: str = ""
    ) -> Outcome:
        """The incumbent's lines under a headline of ours, so that people's alarms still match."""
        command = self.shown(end.spec.argv)
        lines = [
            _cut(" ".join(headline.split()), _HEADLINE),
            *([f"{name}:"] if name else []),
            f"ExitCode {end.status}",
            f'ErrorMessage "{_cut(message, _MESSAGE)}"',
            *([f'ExtraInfo "OutOfMemory: {extra}"'] if extra else []),
            f'Command "{_cut(command, _COMMAND)}"',
            "",
            text,
        ]
        return Outcome(end.status, self._safe("\n".join(lines)), end.began, told=end.told)

    def _safe(self, text: str) -> str:
        return without(text.rstrip("\n"), self._secrets) + "\n"

    def _prove_room(self) -> Outcome:
        """A full disk is this host's failure, and must be known before all hosts agree on how the job ended."""
        proof = self._paths.success.with_name(".room.part")
        try:
            _write_whole(proof, b"\0" * _PROBE_BYTES)
            proof.unlink()
        except OSError as error:
            return self._of_error(self._not_written(error))
        return Outcome(0, None)

    def _write_success(self) -> Outcome:
        try:
            _write_whole(self._paths.success, b"")
        except OSError as error:
            return self._of_error(self._not_written(error))
        log.info("report: %s", self._paths.success)
        return Outcome(0, None)

    def _not_written(self, error: OSError) -> ResultError:
        return ResultError(
            f"{self._paths.success}: {error.strerror}: the script ended well, but its result may not be whole"
        )

    def _write_failure(self, text: str) -> None:
        # The evidence below the headline has passed through the log already.
        log.error("%s", text.partition("\n")[0])
        if os.path.lexists(self._paths.failure):
            log.info("report: %s was written by the script and is kept", self._paths.failure)
            return
        try:
            _write_whole(self._paths.failure, text.encode(errors="replace"))
        except OSError as error:
            log.error("%s cannot be written: %s; it was to say: %s", self._paths.failure, error.strerror, text)
        else:
            log.info("report: %s", self._paths.failure)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file beside, flush it to the disk, move it into place."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _who(end: Exit, host: str) -> tuple[str, str]:
    """Whose fault the end of a process is, and where it ran: all but scripts and ranks are the cluster's."""
    if end.spec.role.startswith("rank "):
        return UserCodeError.fault, f" on {end.spec.role}{host.replace(' on', ',', 1)}"
    if end.spec.server or end.spec.ranks:
        return f"{ClusterError.fault}: {end.spec.role}", host
    return UserCodeError.fault, host


def _how_it_ended(end: Exit) -> str:
    if end.signal_number is not None:
        return f"killed by {signal_name(end.signal_number)} (exit status {end.status})"
    number = end.status - contract.SIGNAL_BASE
    if number > 0:
        return f"exit status {end.status} (128+{number}, {signal_name(number)})"
    return f"exit status {end.status}"


def _out_of_memory(end: Exit) -> str:
    """The memory cgroup's word for a kill, with the peak and the limit; empty when it says nothing."""
    if not end.oom_kills:
        return ""
    memory = hardware.memory()
    return (
        f"out of memory: the kernel killed {end.oom_kills} process(es) of this container (cgroup oom_kill); "
        f"peak {_mebibytes(memory.peak)}, limit {_mebibytes(memory.limit)}"
    )


def _mebibytes(size: int | None) -> str:
    return "not known" if size is None else f"{size / 2**20:.0f} MiB"


def _with_place(message: str, place: str | None) -> str:
    return f"{message} ({place})" if message and place else message


def _cut(text: str, length: int) -> str:
    """At most ``length`` bytes of UTF-8."""
    raw = text.encode(errors="replace")
    return text if len(raw) <= length else raw[: length - 3].decode(errors="ignore") + "..."


def warn_about_model(model: Path) -> None:
    """Say early what serving would say late: no model, or none under a version number."""
    files = [path for path in model.rglob("*") if path.is_file()]
    saved_models = [path for path in files if path.name in ("saved_model.pb", "saved_model.pbtxt")]
    if not files:
        log.warning("%s is empty: no model was saved; save it to the directory that SM_MODEL_DIR names", model)
    elif not saved_models:
        log.warning("%s holds no SavedModel (saved_model.pb), so it cannot be served", model)
    for path in saved_models:
        if not path.parent.name.isdigit():
            log.warning("%s is not under a version number, so it cannot be served; save to e.g. %s", path, model / "1")
