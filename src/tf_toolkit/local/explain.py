"""``tf-toolkit explain``: the stages up to the one that starts something, and what they come to, printed."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tf_toolkit import contract, signals, user_code
from tf_toolkit.config import JobConfig, read_config
from tf_toolkit.contract import Paths
from tf_toolkit.entry_point import held_by
from tf_toolkit.environment import build_environment, encode, fit
from tf_toolkit.errors import ToolkitError
from tf_toolkit.hardware import detect_hardware
from tf_toolkit.local import tree
from tf_toolkit.local.job import PIPE, Job
from tf_toolkit.local.run import variables_of
from tf_toolkit.local.terminal import console
from tf_toolkit.masking import MASK, looks_secret, masked, masked_arguments, secret_values, without
from tf_toolkit.process import Command, ProcessSpec
from tf_toolkit.requirements import REQUIREMENTS_FILE
from tf_toolkit.strategies import choose


def explain_tree(paths: Paths, environ: Mapping[str, str], arguments: Sequence[str], as_json: bool) -> None:
    """Print the job of the tree at ``paths``. Raises what `train` would end with."""
    variables = {**environ, "SAGEMAKER_BASE_DIR": str(paths.root)}
    _print(_describe(paths, paths, variables, arguments, environ), as_json)


def explain_job(job: Job, environ: Mapping[str, str], as_json: bool) -> None:
    """Print what `run` would make of the job's first host. The trees stand in a temporary directory meanwhile."""
    tree.check_root(job)
    host = job.hosts[0]
    with signals.interruptible(), tempfile.TemporaryDirectory(prefix="tf-toolkit-explain-") as directory:
        try:
            tree.build(job, Path(directory))
            paths, shown = job.tree_below(Path(directory), host), job.tree(host)
            found = _describe(paths, shown, variables_of(job, environ)[host], job.arguments, environ)
        except ToolkitError as error:
            error.args = (str(error).replace(directory, str(job.root)),)
            raise
    _print(found, as_json)


def _describe(
    paths: Paths, shown: Paths, environ: Mapping[str, str], arguments: Sequence[str], before: Mapping[str, str]
) -> dict[str, Any]:
    """The job of the tree at ``paths``, as if that were at ``shown``; cli.py documents the keys.

    ``environ`` is what `train` would be started with, ``before`` what it is compared with.
    """
    with _collected_warnings() as warnings:
        config = read_config(paths, environ)
        strategy_name, strategy = choose(config)
        hardware = detect_hardware(config.instance_type, environ)
        env = build_environment(config, hardware, shown, environ, arguments)
        code = _code(config, paths, shown)
        specs = strategy.processes(config, code.command, env)
        secrets = secret_values(
            environ, config.hyperparameters, config.framework_parameters, config.reserved_parameters
        )
        processes = [_process(spec, code, before, secrets) for spec in specs]
    found = {
        "root": str(shown.root),
        "hosts": list(config.hosts),
        "current_host": config.current_host,
        "channels": {name: str(shown.input_data / name) for name in config.channels},
        "pipe_mode": [name for name in config.channels if _in_pipe_mode(config.input_data_config[name])],
        "strategy": strategy_name,
        "code": {"directory": code.command.directory, "fetched_from": code.fetched_from},
        "requirements": _installed(code.requirements, environ),
        "package": _installed(code.package, environ),
        "arguments": masked_arguments(env.arguments),
        "processes": processes,
        "warnings": [*config.warnings, *hardware.warnings, *warnings, *_not_looked_up(config)],
    }
    return {key: _without(value, secrets) for key, value in found.items()}


def _in_pipe_mode(channel: Mapping[str, Any]) -> bool:
    return str(channel.get(contract.INPUT_MODE)).lower() == PIPE.lower()


class _Code(NamedTuple):
    """The user's code as far as it can be seen without fetching it."""

    command: Command
    # Whether the code is on this machine, so that its command, requirements and setup are known.
    known: bool
    fetched_from: str | None
    # Whether there are any, and whether it is one; None if not known.
    requirements: bool | None
    package: bool | None


def _code(config: JobConfig, paths: Paths, shown: Paths) -> _Code:
    submitted = config.submit_directory
    at_code = submitted == str(shown.code)
    here = user_code.locate(config._replace(submit_directory=str(paths.code)) if at_code else config, paths)
    directory = str(shown.code)
    fetched_from = None if here == paths.code else submitted
    if fetched_from is not None and held_by(paths.code):
        # A directory of its own, whose name only the run knows.
        directory = f"{tempfile.gettempdir()}/tf-toolkit-code-..."
    if here is None:
        return _Code(Command((), directory, config.entry_point), False, fetched_from, None, None)
    command = user_code.look(config, here)
    return _Code(
        command=command._replace(directory=directory),
        known=True,
        fetched_from=fetched_from,
        requirements=(here / REQUIREMENTS_FILE).is_file(),
        package=user_code.installs_package(config, command),
    )


def _not_looked_up(config: JobConfig) -> list[str]:
    model_dir = config.hyperparameters.get(contract.MODEL_DIR)
    if not isinstance(model_dir, str) or not model_dir.startswith("s3://"):
        return []
    return ["S3_REGION is the job's region here; `train` asks S3 for the region of the bucket in model_dir"]


def _installed(there: bool | None, environ: Mapping[str, str]) -> str | None:
    if not there:
        return None if there is None else "none"
    return "not installed" if environ.get(contract.REQUIREMENTS) == "skip" else "installed"


def _process(spec: ProcessSpec, code: _Code, before: Mapping[str, str], secrets: frozenset[str]) -> dict[str, Any]:
    fitted, left_out = fit(spec)
    changed = {name: value for name, value in sorted(spec.env.items()) if before.get(name) != value}
    return {
        "role": spec.role,
        "command": masked_arguments(spec.argv) if code.known else None,
        "directory": fitted.cwd,
        "variables": {
            name: _masked_variable(name, value, secrets) for name, value in changed.items() if name in fitted.env
        },
        "left_out": sorted(left_out),
    }


def _masked_variable(name: str, value: str, secrets: frozenset[str]) -> str:
    """A variable's value as it may be printed. Many are JSON, where a secret may be written in another way."""
    if looks_secret(name):
        return MASK
    with contextlib.suppress(ValueError, RecursionError):
        decoded = json.loads(value)
        if isinstance(decoded, dict):
            return encode(_without(masked(decoded), secrets))
        if isinstance(decoded, list) and all(isinstance(item, str) for item in decoded):
            return encode(_without(masked_arguments(decoded), secrets))
    return value


def _without(value: Any, secrets: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {name: _without(item, secrets) for name, item in value.items()}
    if isinstance(value, list):
        return [_without(item, secrets) for item in value]
    return without(value, secrets) if isinstance(value, str) else value


@contextlib.contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """What the stages within would warn of in `train`'s log."""
    log = logging.getLogger("tf_toolkit")
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    collector = Collector(logging.WARNING)
    log.addHandler(collector)
    try:
        yield found
    finally:
        log.removeHandler(collector)


def _print(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=2))
        return
    terminal = console(sys.stdout)
    for title, rows in _sections(found):
        if terminal is None:
            width = max(len(name) for name, _ in rows)
            print(title, *(f"  {name:{width}}  {value}" for name, value in rows), sep="\n", end="\n\n")
        else:
            terminal.print(_table(title, rows), "")


def _table(title: str, rows: Sequence[tuple[str, str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table


def _sections(found: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Titles, and rows of name and value below each, as a person reads them."""
    code = found["code"]
    job = {
        "tree": found["root"],
        "host": found["current_host"],
        "hosts": ", ".join(found["hosts"]),
        "strategy": found["strategy"],
        "code": code["directory"],
        "fetched from": code["fetched_from"],
        "requirements": found["requirements"],
        "package": found["package"],
        "arguments": shlex.join(found["arguments"]) or None,
    }
    yield "job", _rows(job)
    if found["channels"]:
        shown = {
            name: f"FIFOs {path}_0, {path}_1, ..." if name in found["pipe_mode"] else path
            for name, path in found["channels"].items()
        }
        yield "channels", _rows(shown)
    for process in found["processes"]:
        command = process["command"]
        unknown = f"not known before the code is fetched from {code['fetched_from']}"
        shown = {
            "command": unknown if command is None else shlex.join(command),
            "directory": process["directory"],
            "left out": ", ".join(process["left_out"]) or None,
        }
        yield f"process {process['role']}", _rows(shown)
        yield f"variables of {process['role']}", _rows(process["variables"])
    if found["warnings"]:
        yield "warnings", [("", _on_one_line(line)) for line in found["warnings"]]


def _rows(values: Mapping[str, str | None]) -> list[tuple[str, str]]:
    """Without what there is nothing to say of."""
    return [(_on_one_line(name), _on_one_line(value)) for name, value in values.items() if value is not None]


def _on_one_line(text: str) -> str:
    return text if text.isprintable() else ascii(text)
