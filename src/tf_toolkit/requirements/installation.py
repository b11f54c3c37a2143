"""One run of the installer: protected, started, explained."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tf_toolkit import environment, supervisor, tree
from tf_toolkit.errors import (
    ExecuteUserScriptError,
    InstallModuleError,
    InstallRequirementsError,
    Stopped,
)
from tf_toolkit.masking import masked_arguments, secret_values, without
from tf_toolkit.process import Exit, ProcessSpec, signal_name
from tf_toolkit.requirements import REQUIREMENTS_FILE, codeartifact, pip, protected, uv
from tf_toolkit.requirements.failure import Attempt, explain
from tf_toolkit.requirements.file import Line, read
from tf_toolkit.requirements.settings import common

log = logging.getLogger("tf_toolkit")

_DETAILS_KEPT = 8 * 1024
_INFO = 20


def install(
    directory: Path, package: bool, protect: bool, quiet: bool, variables: Mapping[str, str], stop_grace: float
) -> None:
    """Install ``directory/requirements.txt``, and the package in ``directory`` if ``package``."""
    lines = read(directory)
    if not lines and not package:
        return
    import tempfile

    with _turn(), tempfile.TemporaryDirectory(prefix="tf-toolkit-install-") as folder:
        _Install(directory, package, lines, Path(folder), variables, stop_grace).run(protect, quiet)


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """Within, no other host's launcher installs: on one machine they may share this environment."""
    environment_folder = os.open(sys.prefix, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            # Not every file system has locks.
            fcntl.flock(environment_folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(environment_folder)


class _Install:
    """One install, with a folder of its own for what it needs beside."""

    def __init__(
        self,
        directory: Path,
        package: bool,
        lines: tuple[Line, ...],
        folder: Path,
        variables: Mapping[str, str],
        stop_grace: float,
    ) -> None:
        self._directory = directory
        self._package = package
        self._lines = lines
        self._folder = folder
        self._stop_grace = stop_grace
        self._error = InstallModuleError if package else InstallRequirementsError
        index = codeartifact.index(variables)
        # What an installer that is killed leaves behind then goes with the folder.
        env = {**common(directory, variables, index), "TMPDIR": str(folder)}
        tool = uv.find(directory, env, own_index=index is not None) or pip.find(env)
        if tool is None:
            raise self._error(f"there is neither uv on PATH nor pip for {sys.executable}; add one to the image")
        self._tool = tool
        self._secrets = secret_values(tool.env) | (index.secrets if index else frozenset())

    def run(self, protect: bool, quiet: bool) -> None:
        before = protected.installed()
        arguments = ["--quiet"] if quiet else []
        packages: Mapping[str, str] = {}
        if protect:
            protection = protected.protect(before, self._folder)
            packages = protection.packages
            arguments += ["--constraint", str(protection.constraints)] if packages else []
        if self._lines:
            arguments += ["--requirement", REQUIREMENTS_FILE]
        if self._package:
            arguments += [self._copy()]
        end = self._start("install", "install", *self._tool.options, *arguments)
        if end.status != 0:
            raise self._error(self._explain(end, packages), self._said(end)[-_DETAILS_KEPT:])
        self._say_what_changed(before)

    def _copy(self) -> str:
        """A copy of the package: its build would leave files beside the sources, which may be the user's own folder."""
        copy = self._folder / "user-package"
        copy.mkdir()
        try:
            tree.copy(self._directory, copy)
        except OSError as error:
            raise InstallModuleError(f"{self._directory} cannot be copied to build it: {error}") from error
        return str(copy)

    def _start(self, role: str, *arguments: str) -> Exit:
        argv = (*self._tool.argv, *arguments)
        log.info("%s: %s", role, shlex.join(masked_arguments(argv)))
        spec = ProcessSpec(
            role, argv, self._tool.env, str(self._directory), stdout_to_stderr=True, secrets=self._secrets
        )
        try:
            (end,) = supervisor.run([environment.fit(spec)[0]], self._stop_grace)
        except ExecuteUserScriptError as error:
            raise self._error(str(error)) from error
        if end.stopped_by is not None:
            raise Stopped(end.stopped_by)
        return end

    def _explain(self, end: Exit, packages: Mapping[str, str]) -> str:
        place = f"the package in {self._directory}" if self._package else REQUIREMENTS_FILE
        if end.signal_number is not None:
            memory = ": the memory limit was reached" if end.oom_kills else ""
            return f"{place}: the installer was killed by {signal_name(end.signal_number)}{memory}"
        output = self._said(end)
        unexplained = self._tool.unexplained(output)
        more = self._ask_again(unexplained) if unexplained else ""
        attempt = Attempt(output, self._lines, self._directory, packages, self._tool.source, more)
        return without(explain(attempt, self._tool.rules, place), self._secrets)

    def _ask_again(self, requirement: str) -> str:
        """pip's log of looking for a package. It tells of an index that refuses, which its output does not."""
        asked, told = self._folder / "asked.txt", self._folder / "told.txt"
        options = [line.text for line in self._lines if line.is_option and "index" in line.text]
        asked.write_text("".join(f"{text}\n" for text in [*options, requirement]))
        detail = ("-qqq", "--log", str(told), "--no-deps", "--dest", str(self._folder))
        self._start("why", "download", *self._tool.options, *detail, "--requirement", str(asked))
        return without(told.read_text(errors="replace"), self._secrets) if told.exists() else ""

    def _say_what_changed(self, before: Mapping[str, str]) -> None:
        after = protected.installed()
        new = {name: version for name, version in sorted(after.items()) if before.get(name) != version}
        changes = [f"{name} {before[name]} -> {new[name]}" if name in before else f"{name} {new[name]}" for name in new]
        log.info("installed: %s", ", ".join(changes) or "nothing, for all was there")
        if self._tool.check and any(name in before for name in new):
            # What was replaced may not go with what stays.
            self._start("check", *self._tool.check)

    def _said(self, end: Exit) -> str:
        return without(end.stderr.decode(errors="replace"), self._secrets)
