"""Intermediate output: files under output/intermediate go to S3 while the job runs.

``python -m tf_toolkit.sync DIRECTORY S3_URL`` runs beside the script, so boto3 and watchdog stay out of the launcher.

arguments     DIRECTORY, which is there; S3_URL, the place of its files: DIRECTORY/a/b becomes S3_URL/a/b
environment   AWS_REGION, S3_ENDPOINT_URL and what boto3 reads; SM_LOG_LEVEL, a number
signals       TERM: upload all that is not up yet, then exit; the end of the parent process means the same. More TERM
              changes nothing, and INT and HUP are ignored. Started with TERM blocked, it misses none.
exit status   0: all of it is there. 1: something is not, and a line on standard error says what and why.

One file at a time, in the order in which they were closed or put in place, so whoever sees a file in S3 sees all before
it. A link to a file of the directory is uploaded as that file; links out of it are not. Deletions are not mirrored.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping

from tf_toolkit import contract, s3
from tf_toolkit.config import JobConfig
from tf_toolkit.contract import Paths
from tf_toolkit.errors import JobDescriptionError, ResultError, ToolkitError
from tf_toolkit.masking import mask_urls
from tf_toolkit.process import ProcessSpec

log = logging.getLogger("tf_toolkit")

# Once the script has ended, how long uploading may take in all, and how much longer the last file may.
END_SECONDS = 570.0
LAST_FILE_SECONDS = 30.0


def companion(config: JobConfig, paths: Paths, variables: Mapping[str, str]) -> ProcessSpec | None:
    """The process that uploads, or None when the job did not ask for it. Creates output/intermediate if it did.

    Where that directory is there already, the platform uploads it. Raises JobDescriptionError for a place that is none,
    and ToolkitError where the image lacks what uploading takes.
    """
    output = config.reserved_parameters.get(contract.S3_OUTPUT)
    if output is None or os.path.lexists(paths.intermediate):
        return None
    url = _destination(output, config, paths)
    if url is not None:
        check_modules()
    try:
        paths.intermediate.mkdir(parents=True)
    except OSError as error:
        raise ResultError(f"{paths.intermediate} cannot be made: {error.strerror}") from error
    if url is None:
        return None
    # The SM_* variables are the script's, and may be more than the kernel takes.
    env = {name: value for name, value in variables.items() if not name.startswith("SM_")}
    env["SM_LOG_LEVEL"] = str(config.log_level)
    if config.region:
        env["AWS_REGION"] = config.region
    return ProcessSpec(
        role="intermediate output",
        argv=(sys.executable, "-m", "tf_toolkit.sync", str(paths.intermediate.resolve()), url),
        env=env,
        # Python looks for modules in the working directory first: not among the user's files.
        cwd="/",
        stdout_to_stderr=True,
        companion=True,
        companion_grace=END_SECONDS + LAST_FILE_SECONDS,
    )


def _destination(output: object, config: JobConfig, paths: Paths) -> str | None:
    """Where the files go; None for a ``file://`` address, which needs nobody to bring them."""
    found = output if isinstance(output, str) else json.dumps(output)
    if isinstance(output, str) and output.lower().startswith("file://"):
        return None
    try:
        if not isinstance(output, str):
            raise JobDescriptionError("not a string")
        place = s3.parse(output)
    except JobDescriptionError as error:
        raise JobDescriptionError(
            f"{paths.input_config / contract.HYPERPARAMETERS_FILE}: key {contract.S3_OUTPUT!r}: "
            f"found {mask_urls(found)[:100]!r}, expected 's3://bucket/prefix' or 'file://path'"
        ) from error
    if not config.job_name:
        log.warning("TRAINING_JOB_NAME is not set, so the keys of the intermediate output have no job name in them")
    parts = (place.bucket, place.key, config.job_name, paths.intermediate.relative_to(paths.root).as_posix())
    return "s3://" + "/".join(part for part in parts if part)


def check_modules() -> None:
    from importlib.util import find_spec

    for name in ("boto3", "watchdog"):
        if find_spec(name) is None:
            raise ToolkitError(
                f"hyperparameter {contract.S3_OUTPUT} needs {name}, which the image lacks: pip install 'tf-toolkit[s3]'"
            )
