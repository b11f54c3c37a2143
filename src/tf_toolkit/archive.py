"""Unpacks tar and zip archives, known by their content.

tarfile's extraction filters are not used: a Python of before June 2023, such as Debian's 3.11.2, has none
(https://docs.python.org/3/library/tarfile.html#supporting-older-python-versions). tree.py keeps members inside.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from tf_toolkit.errors import SourceError
from tf_toolkit.tree import Tree

if TYPE_CHECKING:
    import tarfile

# How the forms begin: APPNOTE.TXT 4.3.7 and 4.3.16, RFC 1952, the bzip2 and xz formats. A tar is known by its checksum.
_MAGIC = {
    "zip": re.compile(rb"PK(\x03\x04|\x05\x06)"),
    "r:gz": re.compile(rb"\x1f\x8b\x08"),
    "r:bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "r:xz": re.compile(rb"\xfd7zXZ\0"),
}
_NAME = re.compile(r"\.(tar|tgz|tbz2?|txz|zip|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_TAR_BLOCK = 512
_LONGEST_LINK = 4096


def is_archive(path: Path, name: str) -> bool:
    """Whether a file is an archive, by its content. Messages call it ``name``.

    Raises SourceError where the name promises an archive and the content is something else, OSError where it cannot be
    read.
    """
    if _form(path) is not None:
        return True
    if _NAME.search(name):
        size = path.stat().st_size
        found = f"its {size} bytes are neither tar nor zip" if size else "it is empty"
        raise SourceError(f"{name} is named like an archive, but {found}; pack or copy it again")
    return False


def unpack(archive: Path, name: str, directory: Path) -> None:
    """Unpack a tar (plain, gzip, bzip2, xz) or zip into a new, empty directory. Messages call it ``name``.

    Raises SourceError where it is damaged or cut short, and OSError; the directory then holds a part of it.
    """
    tree = Tree(directory)
    form = _form(archive)
    try:
        if form == "zip":
            _unzip(archive, tree)
        else:
            _untar(archive, form or "r:", tree)
    except _damage() as error:
        # A place in the file that cannot be is EINVAL; other numbers are the file system's word.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        found = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{name} is damaged or cut short ({found}); pack or copy it again") from error
    tree.finish(name)


def _form(path: Path) -> str | None:
    """``zip``, tarfile's mode for a tar, or None."""
    import tarfile

    with path.open("rb") as file:
        head = file.read(_TAR_BLOCK)
    found = next((form for form, magic in _MAGIC.items() if magic.match(head)), None)
    if found is None:
        try:
            tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            return None
    return found or "r:"


def _untar(archive: Path, mode: str, tree: Tree) -> None:
    import tarfile

    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        add_members(tar, tree)
        _check_end(tar)


def add_members(tar: tarfile.TarFile, tree: Tree) -> None:
    """Write what a tar holds below a directory. Raises tarfile.TarError and OSError."""
    import tarfile

    for member in tar:
        if member.size < 0:
            # tarfile would come back to it for ever (CVE-2025-8194).
            raise tarfile.ReadError("a member of negative size")
        if member.isdir():
            tree.add_directory(member.name, member.mode)
        elif member.issym():
            tree.add_link(member.name, member.linkname)
        elif member.islnk():
            tree.add_hard_link(member.name, member.linkname)
        elif member.isreg():
            content = tar.extractfile(member)
            assert content is not None
            tree.add_file(member.name, member.mode, content)
        else:
            tree.left_out.append(member.name)


def _check_end(tar: tarfile.TarFile) -> None:
    """tarfile takes a header that is damaged or cut off for the end, and leaves gzip's checksum at the end unread."""
    import tarfile

    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(_TAR_BLOCK) != bytes(_TAR_BLOCK):
        raise tarfile.ReadError("no mark at its end")
    while tar.fileobj.read(64 * 1024):
        pass


def _unzip(archive: Path, tree: Tree) -> None:
    import zipfile

    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            # Some programs of Windows write paths of their own kind.
            name = re.sub(r"^[A-Za-z]:", "", info.filename.replace("\\", "/"))
            mode = info.external_attr >> 16
            if name.endswith("/"):
                tree.add_directory(name, mode or 0o755)
            elif stat.S_ISLNK(mode):
                with file.open(info) as content:
                    tree.add_link(name, os.fsdecode(content.read(_LONGEST_LINK)))
            elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
                with file.open(info) as content:
                    tree.add_file(name, mode or 0o644, content)
            else:
                tree.left_out.append(name)


def _damage() -> tuple[type[Exception], ...]:
    """What tarfile and zipfile raise for damaged archives; RuntimeError is for a password or an unknown compression."""
    import tarfile
    import zipfile
    import zlib

    errors = (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        OverflowError,
        RuntimeError,
    )
    try:
        from lzma import LZMAError
    except ImportError:
        return errors
    return (*errors, LZMAError)
