"""Why an install failed: which line of requirements.txt, and what was wrong with it.

pip.py and uv.py know the structures of their output, one rule each. What no rule knows is explained by the installer's
own last error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tf_toolkit import contract
from tf_toolkit.requirements.file import Line, normalised

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REASON_SHOWN = 400
_FACT_SHOWN = 200


class Found(NamedTuple):
    """What a rule found: the line to blame, if one is, and the reason."""

    line: Line | None
    reason: str


class Attempt(NamedTuple):
    """A failed install."""

    # Plain text, without colours.
    output: str
    # What was asked for, and where.
    lines: Sequence[Line]
    directory: Path
    # What is protected, as Protection.packages.
    packages: Mapping[str, str]
    # Where packages were looked for: "the index (https://...)".
    source: str
    # What the installer wrote about one package when asked again, in detail.
    log: str = ""

    def line_for(self, names: Iterable[str], marked: str = "") -> Line | None:
        """The line that asked for one of these packages, itself or through others, else the one that a text marks."""
        wanted = [normalised(name) for name in names if name]
        line = next((line for name in wanted for line in self.lines if line.name == name), None)
        if line is not None:
            return line
        # pip: "Collecting inner (from outer->-r requirements.txt (line 2))".
        for spoken in self.output.splitlines():
            found = re.match(rf"\s*(?:Collecting|Requirement already satisfied:) ({NAME})", spoken)
            if found and normalised(found[1]) in wanted and (line := self.marked(spoken)):
                return line
        return self.marked(marked)

    def marked(self, text: str) -> Line | None:
        """The line that pip means by the last "-r FILE (line N)" in a text."""
        marks = re.findall(r"-r ([^()]+?) \(line (\d+)\)", text)
        return self.numbered(*marks[-1]) if marks else None

    def numbered(self, file: str, number: str) -> Line | None:
        path = (self.directory / file).resolve()
        return next((line for line in self.lines if line.path.resolve() == path and line.number == int(number)), None)

    def starting(self, text: str) -> Line | None:
        return next((line for line in self.lines if text and line.text.startswith(text)), None)

    def quoted(self, text: str) -> Line | None:
        """The line of which a text has a piece in quotes, or the end in a path."""
        pieces = re.findall(r"['\"`]([^'\"`]{3,})['\"`]", text) + re.findall(r"file://\S*/([^/\s]+)", text)
        return next((line for line in self.lines if any(piece in line.text for piece in pieces)), None)

    def collision(self, name: str, fact: str, names: Iterable[str], marked: str = "") -> Found:
        """A requirement, or what it needs as ``fact`` says, that excludes the protected package ``name``."""
        what = f"{fact[:_FACT_SHOWN]}, which" if fact else "it"
        return Found(
            self.line_for(names, marked),
            f"{what} would replace {self.packages[normalised(name)]}, which this image promises: "
            f"ask for what goes with that version, or set {contract.REQUIREMENTS}=replace to allow it",
        )


Rule = Callable[[Attempt], "Found | None"]


def explain(attempt: Attempt, rules: Sequence[Rule], place: str) -> str:
    """One line: the line of requirements.txt that is to blame, or ``place``, and the reason."""
    output = re.sub(r"\x1b\[[0-9;]*m", "", attempt.output).replace("\r", "\n")
    looked_in = re.findall(r"^Looking in indexes: (.+)$", output, re.MULTILINE)
    attempt = attempt._replace(output=output, source=f"the index ({looked_in[-1]})" if looked_in else attempt.source)
    found = next(filter(None, (rule(attempt) for rule in (*rules, _git))), None) or _last_error(attempt)
    reason = " ".join(found.reason.split())
    return f"{found.line or place}: {reason if len(reason) <= _REASON_SHOWN else reason[:_REASON_SHOWN] + '...'}"


def first_name(text: str) -> str:
    found = re.search(NAME, text)
    return found[0] if found else ""


def build_error(said: str) -> str:
    """The last error in the output of a package's build, but not the one that only says that a command failed."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror: |^[\w.]*(Error|Exception)\b", line)]
    telling = [line for line in errors if not line.lower().startswith("error: command")]
    return (telling or errors or lines or ["see the log"])[-1]


def _git(attempt: Attempt) -> Found | None:
    found = re.findall(r"^\s*fatal: (.+)$", attempt.output, re.MULTILINE)
    if not found:
        return None
    line = attempt.marked(attempt.output) or next((line for line in attempt.lines if "git+" in line.text), None)
    return Found(line, f"git: {found[-1]}")


def _last_error(attempt: Attempt) -> Found:
    lines = [line.strip() for line in attempt.output.splitlines()]
    lines = [line for line in lines if line and not re.match(r"\[notice\]|hint:|WARNING|warning:", line)]
    errors = [number for number, line in enumerate(lines) if re.match(r"(ERROR|error): (?!Exception:)", line)]
    if not errors:
        last = lines[-1] if lines else "the installer said nothing"
        return Found(attempt.quoted(last), last)
    said = lines[errors[-1] :]
    causes = [line.partition(": ")[2] for line in said if re.match(r"(cause|Caused by): ", line)]
    more = said[1:2] if said[0].endswith(":") else causes[-1:]
    reason = ": ".join([said[0].partition(": ")[2].rstrip(":"), *more])
    return Found(attempt.marked("\n".join(said)) or attempt.quoted(reason), reason)
