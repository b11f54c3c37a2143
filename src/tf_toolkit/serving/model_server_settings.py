"""The settings of TensorFlow Serving's own server, where models are to run in that.

Names are those of the serving images that had no other way, but for the two that ask for it and give it more flags.
"""

from __future__ import annotations

import math
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tf_toolkit.errors import JobDescriptionError

BACKEND = "SAGEMAKER_TFS_BACKEND"
MULTI_MODEL = "SAGEMAKER_MULTI_MODEL"
PROGRAM = "tensorflow_model_server"
_EMBEDDED = "embedded"
_INSTANCES = "SAGEMAKER_TFS_INSTANCE_COUNT"
_GPU_MEMORY_MARGIN = "SAGEMAKER_TFS_FRACTIONAL_GPU_MEM_MARGIN"
_EXTRA_FLAGS = "SAGEMAKER_TFS_EXTRA_FLAGS"
# Without effect where models run in this process.
NAMES = (_EXTRA_FLAGS, _GPU_MEMORY_MARGIN, _INSTANCES)

_MOST_INSTANCES = 1000
_DEFAULT_GPU_MEMORY_MARGIN = 0.2
# How it is reached is no matter of taste.
_OUR_FLAGS = frozenset({"port", "rest_api_port", "model_config_file"})


class ModelServer(NamedTuple):
    program: str
    # Processes.
    instances: int
    # The part of the GPUs' memory that several processes leave alone.
    gpu_memory_margin: float
    # More of them, which come last and win.
    extra_flags: tuple[str, ...]
    # The first and the last port that may be opened; None for any.
    ports: tuple[int, int] | None


def read(
    environ: Mapping[str, str], number: Callable[..., int], multi_model: bool, ports: tuple[int, int] | None
) -> ModelServer | None:
    """The settings, or None where models run in this process. Raises JobDescriptionError.

    ``number`` reads a whole number: its name, the default, ``least`` and ``most``.
    """
    backend = environ.get(BACKEND, "").strip()
    if backend in ("", _EMBEDDED):
        return None
    if backend != PROGRAM:
        raise JobDescriptionError(f"{BACKEND} is {backend!r}; expected {_EMBEDDED} or {PROGRAM}")
    if multi_model:
        raise JobDescriptionError(
            f"{BACKEND} is {PROGRAM}, and {MULTI_MODEL} is true: models that come and go run in serve's own process "
            "only; unset one of the two"
        )
    program = shutil.which(PROGRAM, path=environ.get("PATH"))
    if program is None:
        raise JobDescriptionError(
            f"{BACKEND} is {PROGRAM}, which is not on PATH; install it, or unset {BACKEND}: serve runs models itself"
        )
    return ModelServer(
        program=program,
        instances=number(_INSTANCES, 1, least=1, most=_MOST_INSTANCES),
        gpu_memory_margin=_gpu_memory_margin(environ),
        extra_flags=_extra_flags(environ),
        ports=ports,
    )


def _gpu_memory_margin(environ: Mapping[str, str]) -> float:
    text = environ.get(_GPU_MEMORY_MARGIN, "").strip()
    if not text:
        return _DEFAULT_GPU_MEMORY_MARGIN
    try:
        margin = float(text)
    except ValueError:
        margin = math.nan
    if not 0 <= margin < 1:
        raise JobDescriptionError(f"{_GPU_MEMORY_MARGIN} is {text!r}; expected a number from 0 to below 1")
    return margin


def _extra_flags(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Split as a shell would, without one."""
    text = environ.get(_EXTRA_FLAGS, "")
    try:
        flags = shlex.split(text)
    except ValueError as error:
        raise JobDescriptionError(f"{_EXTRA_FLAGS} cannot be split as a shell would: {error}") from None
    for flag in flags:
        # It knows no other form: a value of its own would be taken for another flag.
        found = re.match(r"--(\w+)(=|$)", flag)
        # Without the value, which may be secret.
        name = flag.partition("=")[0]
        if found is None:
            raise JobDescriptionError(f"{_EXTRA_FLAGS} has {name!r}; expected such as --rest_api_num_threads=16")
        if found[1] in _OUR_FLAGS:
            raise JobDescriptionError(f"{_EXTRA_FLAGS} has {name!r}, which serve sets itself; leave it out")
    return tuple(flags)
