"""Brings the user's code from where the platform's variables say that it is: a folder, an archive, or S3."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tf_toolkit.config import region
from tf_toolkit.errors import SourceError

log = logging.getLogger("tf_toolkit")

SUBMIT_DIRECTORY = "SAGEMAKER_SUBMIT_DIRECTORY"
# A folder in S3, of what is common to the models of a server of many.
BUCKET, PREFIX = "SAGEMAKER_MULTI_MODEL_UNIVERSAL_BUCKET", "SAGEMAKER_MULTI_MODEL_UNIVERSAL_PREFIX"


def here(environ: Mapping[str, str]) -> list[Path]:
    """The folder that SAGEMAKER_SUBMIT_DIRECTORY names, or one with what is in the archive; none where it names none.

    Raises SourceError for an archive that is damaged.
    """
    named = environ.get(SUBMIT_DIRECTORY, "")
    if not named or _is_remote(named):
        return []
    path = Path(named[len("file://") :] if named.startswith("file://") else named)
    if path.is_file():
        return [_unpacked(path, named)]
    if not path.is_dir():
        log.warning("%s is %s, which is not there", SUBMIT_DIRECTORY, named)
        return []
    return [path]


def fetch(environ: Mapping[str, str]) -> list[Path]:
    """The same where it names an archive in S3. Raises SourceError."""
    address = environ.get(SUBMIT_DIRECTORY, "")
    if not _is_remote(address):
        return []
    from tf_toolkit import s3

    log.info("fetching %s", address)
    with tempfile.TemporaryDirectory(prefix="tf-toolkit-source-") as folder:
        file = Path(folder) / "source"
        s3.download(address, file, region(environ), environ)
        return [_unpacked(file, address)]


def fetch_common(environ: Mapping[str, str]) -> list[Path]:
    """A folder with what SAGEMAKER_MULTI_MODEL_UNIVERSAL_BUCKET and _PREFIX name; none unless both are set.

    Raises SourceError, also where nothing is there.
    """
    bucket, prefix = environ.get(BUCKET, ""), environ.get(PREFIX, "").strip("/")
    if not bucket or not prefix:
        return []
    from tf_toolkit import s3
    from tf_toolkit.tree import Tree

    address = f"s3://{bucket}/{prefix}/"
    log.info("fetching %s", address)
    directory = Path(tempfile.mkdtemp(prefix="tf-toolkit-code-"))
    tree = Tree(directory)
    keys = _keys(bucket, f"{prefix}/", environ)
    with tempfile.TemporaryDirectory(prefix="tf-toolkit-source-") as folder:
        for key in keys:
            file = Path(folder) / "source"
            s3.download(f"s3://{bucket}/{key}", file, region(environ), environ)
            with file.open("rb") as content:
                tree.add_file(key[len(prefix) + 1 :], 0o644, content)
    if not keys:
        raise SourceError(f"{address} holds nothing; correct {BUCKET} and {PREFIX}")
    tree.finish(address)
    return [directory]


def _is_remote(named: str) -> bool:
    return named.lower().startswith("s3://")


def _keys(bucket: str, prefix: str, environ: Mapping[str, str]) -> list[str]:
    """Of the objects below a prefix."""
    from tf_toolkit import s3

    found = s3.listed(bucket, prefix, region(environ), environ)
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return [each.key for each in found if not each.key.endswith("/")]
    except (BotoCoreError, ClientError) as error:
        why = " ".join(str(error).split())
        raise SourceError(f"s3://{bucket}/{prefix} cannot be listed: {why}; check {BUCKET} and {PREFIX}") from error


def _unpacked(file: Path, name: str) -> Path:
    """A new folder with what is in an archive, or with a script."""
    from tf_toolkit import archive

    directory = Path(tempfile.mkdtemp(prefix="tf-toolkit-code-"))
    if archive.is_archive(file, name):
        archive.unpack(file, name, directory)
    else:
        shutil.copy(file, directory / name.rpartition("/")[2])
    return directory
