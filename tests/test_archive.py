"""Archives and directories come out whole, inside the directory, or not at all."""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import DEADLINE
from tf_toolkit import tree
from tf_toolkit.archive import is_archive, unpack
from tf_toolkit.errors import SourceError

FORMS = ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip"]
MODES = {"tar": "w:", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
WINDOWS_ATTRIBUTES = 0x20
CODE = {"train.py": b"print('hello')\n", "src/deep/model.py": os.urandom(3000), "empty.txt": b""}


def contents(directory: Path) -> dict[str, bytes | str | None]:
    """Everything below a directory: bytes of files, targets of links, None for directories."""
    found: dict[str, bytes | str | None] = {}
    for path in directory.rglob("*"):
        name = path.relative_to(directory).as_posix()
        found[name] = os.fspath(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def files(directory: Path) -> dict[str, bytes | str | None]:
    return {name: content for name, content in contents(directory).items() if content is not None}


def member(name: str, content: bytes | None = None, **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    """A file of a tar, or with ``type`` and ``linkname`` anything else."""
    info = tarfile.TarInfo(name)
    info.size = len(content or b"")
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content or b""


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def hardlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def tar(path: Path, members: Iterable[tuple[tarfile.TarInfo, bytes]], mode: str = "w:") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def packed(path: Path, form: str, code: dict[str, bytes] = CODE) -> Path:
    """``code`` in an archive of one of FORMS."""
    if form != "zip":
        return tar(path, [member(name, content) for name, content in code.items()], MODES[form])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in code.items():
            archive.writestr(name, content)
    return path


def unpacked(archive: Path) -> Path:
    """The directory beside it that an archive was unpacked to."""
    directory = archive.parent / "unpacked"
    directory.mkdir()
    assert is_archive(archive, archive.name)
    unpack(archive, archive.name, directory)
    return directory


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_known_by_its_content(tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    archive = packed(tmp_path / "sourcedir", form)
    assert files(unpacked(archive)) == CODE
    assert warnings(caplog) == []


@pytest.mark.parametrize("what", [".", "train.py src", "./train.py ./src"])
def test_what_tar_itself_packs(tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "source"
    (source / "src").mkdir(parents=True, mode=0o750)
    (source / "train.py").write_text("1")
    (source / "src" / "run.sh").write_text("2")
    (source / "src" / "run.sh").chmod(0o755)
    (source / "src" / "link.py").symlink_to("../train.py")
    os.link(source / "train.py", source / "src" / "same.py")
    subprocess.run(["tar", "-czf", tmp_path / "code.tgz", *what.split()], cwd=source, check=True)
    directory = unpacked(tmp_path / "code.tgz")
    assert files(directory) == {
        "train.py": b"1",
        "src/run.sh": b"2",
        "src/link.py": "../train.py",
        "src/same.py": b"1",
    }
    assert (directory / "src" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (directory / "src").stat().st_mode & 0o777 == 0o750
    assert warnings(caplog) == []


def test_leading_slashes_are_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = tar(tmp_path / "a.tar", [member("/train.py", b"1"), member("///x//y.py", b"2")])
    assert files(unpacked(archive)) == {"train.py": b"1", "x/y.py": b"2"}
    assert warnings(caplog) == []


def test_what_leads_out_is_left_out_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    archive = tar(
        tmp_path / "evil.tar",
        [
            member("train.py", b"1"),
            member("../outside", b"evil"),
            member("a/../../outside", b"evil"),
            member(f"/../..{outside}", b"evil"),
            symlink("absolute", str(outside)),
            symlink("up", "../outside"),
            symlink("sub/up", "../../outside"),
            symlink("sub/hidden", "../sub/../../outside"),
            hardlink("hard", "../outside"),
            hardlink("hard2", str(outside)),
            member("fifo", type=tarfile.FIFOTYPE),
            member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
            member("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=0),
            member("a/../inside.py", b"2"),
            symlink("sub/fine", "../train.py"),
        ],
    )
    assert files(unpacked(archive)) == {"train.py": b"1", "inside.py": b"2", "sub/fine": "../train.py"}
    assert outside.read_text() == "kept"
    (warning,) = warnings(caplog)
    assert warning.startswith("evil.tar: left out ")
    assert "'../outside', 'a/../../outside'" in warning
    assert warning.endswith(" and 9 more")


def test_nothing_is_written_through_a_link(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "outside").mkdir()
    archive = tar(
        tmp_path / "evil.tar",
        [
            member("d", type=tarfile.DIRTYPE),
            symlink("d/top", ".."),
            symlink("d/out", "top/../outside"),
            member("d/top/../../outside/a", b"1"),
            member("d/top/through.py", b"1"),
            symlink("d/top/link", "../../outside"),
            hardlink("d/top/hard", "d/top/through.py"),
            symlink("file", "outside"),
            member("file", b"2"),
        ],
    )
    assert files(unpacked(archive)) == {
        "outside/a": b"1",
        "d/top/through.py": b"1",
        "d/top/link": "../../outside",
        "d/top/hard": b"1",
        "file": b"2",
    }
    assert list((tmp_path / "outside").iterdir()) == []
    assert len(warnings(caplog)) == 1


def test_a_chain_of_links_longer_than_a_path_may_be_leads_nowhere(tmp_path: Path) -> None:
    """CVE-2025-4517: each link is short, what they resolve to together is too long for realpath."""
    long = "d" * 247
    members, path = [], ""
    for letter in "abcdefghijklmnop":
        members += [member(f"{path}{long}", type=tarfile.DIRTYPE), symlink(f"{path}{letter}", long)]
        path += f"{letter}/"
    chain = "/".join("abcdefghijklmnop")
    members += [symlink(f"{chain}/{'l' * 254}", "../" * 16), symlink("escape", f"{chain}/{'l' * 254}/../../outside")]
    (tmp_path / "outside").write_text("kept")
    directory = unpacked(tar(tmp_path / "evil.tar", [*members, member("escape", b"evil")]))
    assert (tmp_path / "outside").read_text() == "kept"
    assert (directory / "escape").read_bytes() == b"evil"


def test_the_last_of_several_members_with_one_name_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = tar(
        tmp_path / "a.tar",
        [
            member("train.py", b"old"),
            hardlink("copy.py", "train.py"),
            member("train.py", b"new"),
            hardlink("train.py", "./train.py"),
            symlink("link.py", "copy.py"),
            symlink("link.py", "train.py"),
            symlink("file.py", "train.py"),
            member("file.py", b"file"),
        ],
    )
    assert files(unpacked(archive)) == {
        "train.py": b"new",
        "copy.py": b"old",
        "link.py": "train.py",
        "file.py": b"file",
    }
    assert warnings(caplog) == []


def test_a_name_cannot_be_file_and_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = tar(
        tmp_path / "a.tar",
        [member("a", b"1"), member("a/b", b"2"), member("c/d", b"3"), member("c", b"4"), symlink("c", "a")],
    )
    assert files(unpacked(archive)) == {"a": b"1", "c/d": b"3"}
    (warning,) = warnings(caplog)
    assert "'a/b', 'c', 'c'" in warning


def test_modes(tmp_path: Path) -> None:
    archive = tar(
        tmp_path / "a.tar",
        [
            member(".", type=tarfile.DIRTYPE, mode=0),
            member("closed", type=tarfile.DIRTYPE, mode=0),
            member("closed/none", b"1", mode=0, uid=12345, gid=12345),
            member("setuid", b"2", mode=0o6755),
            member("open", b"3", mode=0o777),
        ],
    )
    directory = unpacked(archive)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*")}
    assert modes == {"closed": 0o700, "none": 0o600, "setuid": 0o755, "open": 0o755}
    assert (directory / "closed" / "none").stat().st_uid == os.geteuid()
    assert stat.S_IMODE(directory.stat().st_mode) & 0o700 == 0o700


def test_a_sparse_file(tmp_path: Path) -> None:
    with (tmp_path / "weights").open("wb") as file:
        file.write(b"start")
        file.seek(1024 * 1024)
        file.write(b"end")
    subprocess.run(["tar", "--sparse", "-czf", "a.tgz", "weights"], cwd=tmp_path, check=True)
    assert (unpacked(tmp_path / "a.tgz") / "weights").read_bytes() == (tmp_path / "weights").read_bytes()


def test_a_zip_as_info_zip_and_windows_write_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "code.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, mode, content in [
            ("train.py", 0o100644, "1"),
            ("run.sh", 0o104755, "2"),
            ("sub/", 0o040755, ""),
            ("sub/link.py", 0o120777, "../train.py"),
            ("sub/out.py", 0o120777, "../../outside"),
            ("fifo", 0o010644, ""),
            ("win\\dir\\", 0, ""),
            ("win\\model.py", 0, "3"),
            ("C:\\work\\data.py", 0, "4"),
            ("..\\outside", 0, "evil"),
            ("../outside", 0, "evil"),
        ]:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr = name, mode << 16 or WINDOWS_ATTRIBUTES
            archive.writestr(info, content)
    directory = unpacked(path)
    assert contents(directory) == {
        "train.py": b"1",
        "run.sh": b"2",
        "sub": None,
        "sub/link.py": "../train.py",
        "win": None,
        "win/dir": None,
        "win/model.py": b"3",
        "work": None,
        "work/data.py": b"4",
    }
    assert not (tmp_path / "outside").exists()
    assert stat.S_IMODE((directory / "run.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((directory / "win" / "model.py").stat().st_mode) == 0o644
    (warning,) = warnings(caplog)
    assert "'sub/out.py', 'fifo', '../outside' and 1 more" in warning


def test_a_zip_with_a_password(tmp_path: Path) -> None:
    path = packed(tmp_path / "code.zip", "zip", {"train.py": b"1"})
    raw = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(header) + flags] |= 1
    path.write_bytes(raw)
    with pytest.raises(SourceError, match=r"code.zip is damaged or cut short \(.*password"):
        unpacked(path)


@pytest.mark.parametrize("form", FORMS)
def test_an_archive_cut_anywhere_is_refused_or_whole(tmp_path: Path, form: str) -> None:
    whole = packed(tmp_path / "whole", form, {"train.py": b"print(1)\n" * 100, "src/model.py": b"x = 1\n"}).read_bytes()
    expected = {"train.py": b"print(1)\n" * 100, "src/model.py": b"x = 1\n"}
    cut = tmp_path / f"cut.{form}"
    refused = 0
    for length in range(0, len(whole), 32 if form == "tar" else 1):
        cut.write_bytes(whole[:length])
        directory = Path(tempfile.mkdtemp(dir=tmp_path))
        try:
            assert is_archive(cut, cut.name)
            unpack(cut, cut.name, directory)
        except SourceError as error:
            assert str(error).startswith(f"cut.{form} is ")
            assert "\n" not in str(error)
            refused += 1
        else:
            assert files(directory) == expected
        shutil.rmtree(directory)
    assert refused > 50


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 0.999), byte=st.integers(0, 255))
def test_a_damaged_archive_never_raises_anything_else(form: str, place: float, byte: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path = packed(Path(temporary) / "code", form)
        raw = bytearray(path.read_bytes())
        raw[int(place * len(raw))] = byte
        path.write_bytes(raw)
        (Path(temporary) / "unpacked").mkdir()
        try:
            if is_archive(path, "code.tar"):
                unpack(path, "code.tar", Path(temporary) / "unpacked")
        except SourceError as error:
            assert str(error).startswith("code.tar is ")


@pytest.mark.parametrize("form", ["tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_damaged_content_is_found_by_its_checksum(tmp_path: Path, form: str) -> None:
    """gzip's stands at the end of the file, behind the last that a tar reader needs."""
    path = packed(tmp_path / "code", form, {"train.py": os.urandom(5000)})
    raw = bytearray(path.read_bytes())
    raw[2500] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(SourceError, match="damaged or cut short"):
        unpacked(path)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = tar(tmp_path / "code.tar", [member("a.py", b"1"), member("b.py", b"2")])
    raw = bytearray(path.read_bytes())
    raw[1024] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(SourceError, match=r"code.tar is damaged or cut short \(no mark at its end\)"):
        unpacked(path)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_member_of_negative_size_ends(tmp_path: Path, form: Any) -> None:
    """CVE-2025-8194: reading goes back to where it was."""
    first, content = member("a.py", b"1".ljust(512))
    second = tarfile.TarInfo("b.py")
    if form == tarfile.GNU_FORMAT:
        second.size = -1024
    else:
        second.pax_headers = {"size": "-1536"}
    (tmp_path / "evil.tar").write_bytes(first.tobuf() + content + second.tobuf(form) + bytes(1024))
    (tmp_path / "out").mkdir()
    program = (
        "from pathlib import Path; from tf_toolkit import archive; archive.unpack(Path('evil.tar'), 'x', Path('out'))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, stderr=subprocess.PIPE, timeout=DEADLINE, check=False
    )
    # A Python of before the mend takes the member for the end, and leaves it out.
    refused = b"SourceError: x is damaged or cut short" in ended.stderr
    assert refused or (ended.returncode == 0 and [path.name for path in (tmp_path / "out").iterdir()] == ["a.py"])


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\0" * 10240])
@pytest.mark.parametrize("name", ["s3://bucket/sourcedir.tar.gz", "code.TGZ", "code.zip", "code.tar"])
def test_what_is_only_named_like_an_archive(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(SourceError, match=r"is named like an archive, but"):
        is_archive(tmp_path / "file", name)


@pytest.mark.parametrize(
    "content", [b"", b"print(1)\n", b"#!/bin/sh\n" * 100, b"BZh", b"PK", b"\x1f", b"\x7fELF" + bytes(600)]
)
def test_other_files_are_no_archives(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert not is_archive(tmp_path / "file", "train.py")


def test_names_in_the_log_cannot_steer_a_terminal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unpacked(tar(tmp_path / "a.tar", [member("../\x1b[2J\nforged line", b"")]))
    (warning,) = warnings(caplog)
    assert r"'../\x1b[2J\nforged line'" in warning


NAMES = st.lists(
    st.sampled_from(["..", ".", "a", "b", "c", "", "a b", "\\", "é", "\udcff", "C:", "x" * 90]), min_size=1, max_size=5
)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(KINDS, st.booleans(), NAMES, st.booleans(), NAMES), max_size=12), st.sampled_from(["tar", "zip"])
)
@example([(tarfile.SYMTYPE, False, ["a"], False, ["a", "", "."])], "tar")
@example(
    [(tarfile.SYMTYPE, False, ["a"], False, ["b", "..", ".."]), (tarfile.SYMTYPE, False, ["b"], False, ["."])], "tar"
)
def test_no_name_and_no_link_leads_out(
    members: list[tuple[bytes, bool, list[str], bool, list[str]]], form: str
) -> None:
    """Full paths lead to the watched directory, and none has enough ``..`` to leave it: what got out is seen."""
    with tempfile.TemporaryDirectory() as temporary:
        watched = Path(os.path.realpath(temporary))
        directory = watched / "1" / "2" / "3" / "4" / "5" / "directory"
        directory.mkdir(parents=True)
        (watched / "a").write_text("kept")
        (directory.parent / "a").write_text("kept")
        before = contents(watched)
        buffer = io.BytesIO()
        described = [
            (kind, f"{watched}/" * absolute + "/".join(name), f"{watched}/" * absolute_target + "/".join(target))
            for kind, absolute, name, absolute_target, target in members
        ]
        if form == "tar":
            with tarfile.open(fileobj=buffer, mode="w") as archive:
                for kind, name, target in described:
                    info, content = member(name, b"new" if kind == tarfile.REGTYPE else b"", type=kind, linkname=target)
                    archive.addfile(info, io.BytesIO(content))
        else:
            types = {tarfile.REGTYPE: stat.S_IFREG, tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK}
            with zipfile.ZipFile(buffer, "w") as zipped:
                for kind, name, target in described:
                    zip_info = zipfile.ZipInfo("x")
                    zip_info.filename = name.replace("\udcff", "?")
                    zip_info.external_attr = types.get(kind, stat.S_IFIFO) << 16
                    zipped.writestr(zip_info, target.replace("\udcff", "?"))
        (watched / "archive").write_bytes(buffer.getvalue())
        if members:
            unpack(watched / "archive", "archive", directory)
        (watched / "archive").unlink()
        inside = directory.relative_to(watched).as_posix()
        after = contents(watched)
        assert {name: content for name, content in after.items() if not name.startswith(f"{inside}/")} == before
        for path in directory.rglob("*"):
            assert is_loop(path) or Path(os.path.realpath(path)).is_relative_to(directory)
            assert path.is_symlink() or path.is_file() or path.is_dir()


def is_loop(path: Path) -> bool:
    """Whether a link leads to itself and so nowhere; realpath makes "/" of a -> a//."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def test_a_directory_is_copied_with_its_links(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, shared = tmp_path / "source", tmp_path / "shared"
    (source / "src").mkdir(parents=True)
    shared.mkdir()
    (shared / "utils.py").write_text("shared")
    (source / "train.py").write_text("1")
    (source / "train.py").chmod(0o555)
    (source / "src" / "link.py").symlink_to("../train.py")
    (source / "src" / "shared").symlink_to("../../shared")
    (source / "absolute").symlink_to(shared)
    (source / "loop").symlink_to(".")
    (source / "src").chmod(0o555)
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(source / "socket"))
        target = tmp_path / "target"
        target.mkdir()
        tree.copy(source, target)
    assert contents(target) == {
        "train.py": b"1",
        "src": None,
        "src/link.py": "../train.py",
        "src/shared": str(shared),
        "absolute": str(shared),
        "loop": ".",
    }
    assert (target / "src" / "shared" / "utils.py").read_text() == "shared"
    assert stat.S_IMODE((target / "src").stat().st_mode) == 0o755
    assert stat.S_IMODE((target / "train.py").stat().st_mode) == 0o755
    (warning,) = warnings(caplog)
    assert "'fifo'" in warning
    assert "'socket'" in warning


def test_a_directory_is_copied_into_one_below_it(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("1")
    (tmp_path / "tree" / "code" / "stage").mkdir(parents=True)
    (tmp_path / "tree" / "data").write_text("2")
    tree.copy(tmp_path, tmp_path / "tree" / "code" / "stage", without=(tmp_path / "tree", tmp_path / "missing"))
    assert contents(tmp_path / "tree" / "code" / "stage") == {"train.py": b"1"}
