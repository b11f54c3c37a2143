"""Writes files, directories and links below a directory, and never outside it, whatever they are called.

Symbolic links come last, so that nothing is ever written through one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import posixpath
from collections.abc import Collection
from pathlib import Path
from typing import IO

log = logging.getLogger("tf_toolkit")

_NAMED_IN_WARNING = 3


class Tree:
    """What is written below a new, empty directory; of several things with one name the last stays.

    Names are relative, with slashes. Owners, times, and the set-user-ID, set-group-ID and sticky bits are not kept.
    """

    def __init__(self, directory: Path) -> None:
        self._root = directory
        self._directories = {""}
        self._links: dict[str, str] = {}
        self.left_out: list[str] = []

    def add_directory(self, name: str, mode: int) -> None:
        relative = _relative(name)
        if relative is None or not self._make(relative):
            self.left_out.append(name)
        elif relative:
            (self._root / relative).chmod(mode & 0o755 | 0o700)

    def add_file(self, name: str, mode: int, content: IO[bytes]) -> None:
        import shutil

        relative = self._place(name)
        if relative is None:
            return
        descriptor = os.open(self._root / relative, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(content, file)
            os.fchmod(descriptor, mode & 0o755 | 0o600)

    def add_hard_link(self, name: str, target: str) -> None:
        """A copy of a file that came before; not a link, so that two names never share what is written later."""
        relative = _relative(target)
        if relative is None or not (self._root / relative).is_file():
            self.left_out.append(name)
            return
        with (self._root / relative).open("rb") as content:
            self.add_file(name, os.fstat(content.fileno()).st_mode, content)

    def add_link(self, name: str, target: str) -> None:
        """A symbolic link, if it can be seen to stay inside."""
        relative = _relative(name)
        if relative is not None and stays_inside(relative, target) and _can_be_named(target):
            self.add_trusted_link(name, target)
        else:
            self.left_out.append(name)

    def add_trusted_link(self, name: str, target: str) -> None:
        """A symbolic link, wherever it leads."""
        relative = self._place(name)
        if relative is not None:
            self._links[relative] = target

    def finish(self, source: str) -> None:
        """Make the symbolic links, and warn of what was left out of ``source``."""
        for relative, target in self._links.items():
            # The parents are real directories since the link was added, so it is not made through another.
            try:
                (self._root / relative).symlink_to(target)
            except FileExistsError:
                self.left_out.append(relative)
        if self.left_out:
            named = ", ".join(repr(name) for name in self.left_out[:_NAMED_IN_WARNING])
            more = len(self.left_out) - _NAMED_IN_WARNING
            log.warning(
                "%s: left out what leads out of it, clashes with another name, or is no file, directory or link: %s%s",
                source,
                named,
                f" and {more} more" if more > 0 else "",
            )

    def _place(self, name: str) -> str | None:
        """Make room for a file or link: its relative name, or None, and its name noted, where there can be none."""
        relative = _relative(name)
        if not relative or not self._make(posixpath.dirname(relative)) or relative in self._directories:
            self.left_out.append(name)
            return None
        self._links.pop(relative, None)
        with contextlib.suppress(FileNotFoundError):
            (self._root / relative).unlink()
        return relative

    def _make(self, relative: str) -> bool:
        """Make a directory and its parents; False where a file is in the way."""
        missing: list[str] = []
        while relative not in self._directories:
            missing.append(relative)
            relative = posixpath.dirname(relative)
        for directory in reversed(missing):
            try:
                (self._root / directory).mkdir()
            except FileExistsError:
                return False
            self._directories.add(directory)
        return True


def copy(source: Path, directory: Path, without: Collection[Path] = ()) -> None:
    """Copy the files, directories and links of ``source`` into a new, empty directory, but not those of ``without``.

    A link that leads out of ``source`` is replaced by one with the full path of what it leads to.

    Raises OSError.
    """
    tree = Tree(directory)
    omitted = {(status.st_dev, status.st_ino) for status in (path.stat() for path in without if path.exists())}
    pending = [""]
    while pending:
        parent = pending.pop()
        for path in (source / parent).iterdir():
            name = posixpath.join(parent, path.name)
            status = path.lstat()
            if path.is_symlink():
                target = os.fspath(path.readlink())
                tree.add_trusted_link(name, target if stays_inside(name, target) else os.path.realpath(path))
            elif path.is_dir():
                if (status.st_dev, status.st_ino) not in omitted:
                    tree.add_directory(name, status.st_mode)
                    pending.append(name)
            elif path.is_file():
                with path.open("rb") as content:
                    tree.add_file(name, status.st_mode, content)
            else:
                tree.left_out.append(name)
    tree.finish(str(source))


def stays_inside(relative: str, target: str) -> bool:
    """Whether a symbolic link stays inside, whatever links are beside it.

    It must go up first, at most to the top, and then only down. Resolving it instead would trust ``realpath``, which
    paths longer than PATH_MAX mislead (CVE-2025-4517).
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    climbs = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    return bool(target) and target[0] != "/" and climbs <= relative.count("/") and ".." not in parts[climbs:]


def _relative(name: str) -> str | None:
    """A name as a path below the directory, "" for the directory itself; None where there can be no such path."""
    relative = posixpath.normpath(name.lstrip("/"))
    if relative == ".." or relative.startswith("../") or not _can_be_named(relative):
        return None
    return "" if relative == "." else relative


def _can_be_named(name: str) -> bool:
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False
