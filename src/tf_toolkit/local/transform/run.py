"""One transform from its beginning to its end."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from tf_toolkit import signals
from tf_toolkit.local.channel_files import names_below
from tf_toolkit.local.terminal import say
from tf_toolkit.local.transform import outputs, s3_objects, server, sources
from tf_toolkit.local.transform.options import DEFAULT_PAYLOAD_MB, MULTI_RECORD, Options
from tf_toolkit.local.transform.progress import shown
from tf_toolkit.local.transform.work import Work

_FAILED = 1
# Of those that the server obeys: which model, which of its code, and what it answers where --accept is not given.
_VARIABLES = ("SAGEMAKER_TFS_DEFAULT_MODEL_NAME", "SAGEMAKER_PROGRAM", "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT")


def transform(options: Options, environ: Mapping[str, str]) -> int:
    """Transform what has not been transformed; 0, or 1 where a file could not be.

    Raises UsageError, SourceError for what S3 refuses, ServerError, OSError for outputs, and Stopped.
    """
    # From here on a stop is heard of only where nothing is left behind by it.
    signals.listen()
    outputs.check_apart(options.input, options.output)
    with signals.interruptible():
        found = sources.find(options, environ)
    with outputs.claimed(options.output, _settings(options, environ), environ) as place:
        with signals.interruptible():
            left = place.left(found)
        to_do = [source for source in found if source.name not in left]
        if left:
            say(f"{len(left)} of {len(found)} files have outputs, made with the same model and options, which stay")
        failed = _transformed(options, environ, to_do, place) if to_do else 0
    say(f"{len(to_do) - failed} of {len(to_do)} files transformed, {failed} failed; outputs: {options.output}")
    return _FAILED if failed else 0


def _transformed(
    options: Options, environ: Mapping[str, str], to_do: list[sources.Source], place: outputs.Outputs
) -> int:
    """How many failed."""
    size = sum(source.size for source in to_do)
    with server.running(options, environ) as running, signals.interruptible(), shown(len(to_do), size) as advance:
        running.wait_until_ready()
        work = Work(running, options, place, advance)
        work.run(to_do)
        return work.failed


def _settings(options: Options, environ: Mapping[str, str]) -> dict[str, str]:
    """What decides what is written, by the names that messages have for it."""
    return {
        "--input": _place(options.input),
        "model": _fingerprint(options.model_dir),
        **{name: environ.get(name, "") for name in _VARIABLES},
        "--content-type": options.content_type or "",
        "--split-type": options.split_type,
        "--strategy": options.strategy or MULTI_RECORD,
        "--max-payload": str(options.max_payload_mb or DEFAULT_PAYLOAD_MB),
        "--accept": options.accept or "",
        "--assemble-with": options.assemble_with,
        "--input-filter": options.input_filter.text,
        "--join-source": str(options.joins),
        "--output-filter": options.output_filter.text,
        "--compression": str(options.gzip),
    }


def _place(given: str) -> str:
    """The folder that names of files are of, or the address."""
    if s3_objects.is_address(given):
        return given
    path = Path(os.path.realpath(given))
    return str(path if path.is_dir() else path.parent)


def _fingerprint(folder: Path) -> str:
    """Another one once a file of the folder has been written."""
    found = hashlib.sha256()
    for name in names_below(folder, "--model-dir"):
        # Written when the user's code is first imported.
        if "__pycache__" in name.split("/"):
            continue
        status = (folder / name).stat()
        found.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return found.hexdigest()[:16]
