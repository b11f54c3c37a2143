"""Brings the user's code into a directory, whole or not at all: from S3, an archive, a directory or a file."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from tf_toolkit import archive, s3, tree
from tf_toolkit.config import JobConfig
from tf_toolkit.contract import Paths
from tf_toolkit.entry_point import STAGE_PREFIX, SUBMIT_IT, held_by
from tf_toolkit.errors import SourceError

log = logging.getLogger("tf_toolkit")


def fetch(source: str | Path, config: JobConfig, paths: Paths, variables: Mapping[str, str]) -> Path:
    """Bring code into the code directory, or where that holds files into a new one; whole, or not at all."""
    import shutil
    import tempfile

    with contextlib.ExitStack() as undo:
        directory = paths.code
        if held_by(paths.code):
            directory = Path(tempfile.mkdtemp(prefix="tf-toolkit-code-"))
            undo.callback(shutil.rmtree, directory, ignore_errors=True)
            log.warning("%s holds files and is left alone; the code of %s runs in %s", paths.code, source, directory)
        directory.mkdir(parents=True, exist_ok=True)
        # Inside, for the code directory may be a mount of its own, and files are renamed only within one.
        with tempfile.TemporaryDirectory(prefix=STAGE_PREFIX, dir=directory) as temporary:
            stage = Path(temporary)
            if isinstance(source, str):
                _download(source, config, variables, stage)
            elif source.is_dir():
                tree.copy(source, stage, without=(directory, paths.code, paths.root))
            else:
                _unpack(source, str(source), source.name, stage)
            with contextlib.ExitStack() as moves:
                for path in list(stage.iterdir()):
                    moves.callback(path.rename(directory / path.name).rename, path)
                moves.pop_all()
        undo.pop_all()
    return directory


def _download(url: str, config: JobConfig, variables: Mapping[str, str], stage: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="tf-toolkit-source-") as temporary:
        file = Path(temporary) / "source"
        s3.download(url, file, config.region, variables)
        _unpack(file, url, s3.parse(url).key.rpartition("/")[2], stage)


def _unpack(file: Path, said: str, name: str, stage: Path) -> None:
    """Unpack an archive, or copy any other file under its ``name``. Messages call it ``said``."""
    if not file.is_file():
        raise SourceError(f"{said} is neither a file nor a directory; {SUBMIT_IT} to one")
    if archive.is_archive(file, said):
        archive.unpack(file, said, stage)
        return
    with file.open("rb") as content:
        tree.Tree(stage).add_file(name, os.fstat(content.fileno()).st_mode, content)
