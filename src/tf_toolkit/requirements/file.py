"""requirements.txt, read so far as to say which line failed. What a line means, the installer alone decides."""

from __future__ import annotations

import codecs
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from tf_toolkit.errors import InstallRequirementsError
from tf_toolkit.masking import mask_urls
from tf_toolkit.requirements import REQUIREMENTS_FILE

_TEXT_SHOWN = 200


class Line(NamedTuple):
    """One requirement or option, its continuation lines joined."""

    path: Path
    # As the user would name the file: relative to the code directory.
    file: str
    number: int
    text: str

    @property
    def is_option(self) -> bool:
        """Whether it is an option of the installer, such as ``--index-url``, and asks for no package."""
        return self.text.startswith("-") and not re.match(r"(-e|--editable)\b", self.text)

    @property
    def name(self) -> str:
        """The package that it asks for, normalised; empty for a path or an address that does not say."""
        if self.is_option:
            return ""
        text = re.sub(r"^(-e|--editable)[\s=]*", "", self.text)
        found = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:[\[<>=!~;@,( ]|$)", text) or re.search(
            r"[#&]egg=([\w.-]+)", text
        )
        if found:
            return normalised(found[1])
        # A path or an address says it as a rule: ./mylib, mylib-1.0.tar.gz, https://host/mylib.git@main.
        last = re.split(r"[\s#?;]", text)[0].rstrip("/").rpartition("/")[2]
        return normalised(re.sub(r"(-\d.*)?\.(whl|zip|tar\.\w+)$|\.git$", "", last.partition("@")[0]))

    def __str__(self) -> str:
        shown = self.text if len(self.text) <= _TEXT_SHOWN else self.text[:_TEXT_SHOWN] + "..."
        return f'{self.file} line {self.number} ("{mask_urls(shown)}")'


def normalised(name: str) -> str:
    """A package's name as comparisons need it: https://peps.python.org/pep-0503/#normalized-names."""
    return re.sub(r"[-_.]+", "-", name).strip("-").lower()


def read(directory: Path) -> tuple[Line, ...]:
    """The lines of ``directory/requirements.txt`` and of the files that it includes; none where there is no such file.

    Raises InstallRequirementsError for a file that is not one of text.
    """
    path = directory / REQUIREMENTS_FILE
    return tuple(_read(path, REQUIREMENTS_FILE, set())) if os.path.lexists(path) else ()


def _read(path: Path, shown: str, seen: set[Path]) -> list[Line]:
    if path.resolve() in seen:
        return []
    seen.add(path.resolve())
    lines: list[Line] = []
    for number, text in _logical_lines(_text(path, shown)):
        line = Line(path, shown, number, text)
        lines.append(line)
        included = re.match(r"(?:-r|--requirement)[\s=]*(\S.*)", text)
        # An address, and a name with a variable in it, are left to the installer.
        if included and "://" not in included[1] and "${" not in included[1]:
            name = included[1].strip("\"'")
            below = path.parent / name
            if not below.exists():
                raise InstallRequirementsError(f"{line}: there is no file {below}")
            lines += _read(below, os.path.normpath(os.path.join(os.path.dirname(shown), name)), seen)  # noqa: PTH118, PTH120
    return lines


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines without comments and blanks, a continued one joined and under the number of its first, as pip counts."""
    found: list[tuple[int, str]] = []
    held: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.endswith("\\") and not re.match(r"\s*#", line):
            held.append(line[:-1].strip())
            continue
        joined = re.sub(r"(^|\s+)#.*$", "", " ".join([*held, line.strip()])).strip()
        if joined:
            found.append((number - len(held), joined))
        held = []
    if held and (joined := " ".join(held).strip()):
        found.append((len(text.splitlines()) - len(held) + 1, joined))
    return found


def _text(path: Path, shown: str) -> str:
    try:
        # Asked first, for opening a FIFO that nobody writes would hold the job.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InstallRequirementsError(f"{shown}: not a regular file; expected a text file of requirements")
        raw = path.read_bytes()
    except OSError as error:
        raise InstallRequirementsError(f"{shown}: cannot be read: {error.strerror}") from error
    # Windows PowerShell writes UTF-16 with a mark; both installers read it.
    encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise InstallRequirementsError(
            f"{shown}: byte {error.start} is not {encoding[:6].upper().rstrip('-S')}; save the file as UTF-8"
        ) from error
