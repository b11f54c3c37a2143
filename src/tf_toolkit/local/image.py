"""The options of ``run --image`` as a person gave them, checked: each mistake is one line with its remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tf_toolkit.local.job import Container, UsageError

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)([bkmgt]?)", re.IGNORECASE)
_CPUS = re.compile(r"\d+(?:\.\d+)?|\.\d+")
# Docker takes no less of either.
_LEAST_MEMORY = 6 << 20
_LEAST_NANO_CPUS = 10_000_000
_ALL_GPUS = -1
# These say where the job lies and which it is.
_NOT_GIVEN = ("SAGEMAKER_BASE_DIR", "TRAINING_JOB_NAME")


def container(
    image: str | None,
    gpus: str | None,
    memory: str | None,
    cpus: str | None,
    variables: Sequence[str] | None,
    environ: Mapping[str, str],
    arguments: Sequence[str],
) -> Container | None:
    """What the containers of a job are made of; None for a job without. Raises UsageError."""
    if image is None:
        for option, value in (("--gpus", gpus), ("--memory", memory), ("--cpus", cpus), ("--env", variables)):
            if value is not None:
                raise UsageError(f"{option} needs --image: without it the job is processes of this machine")
        return None
    if not image:
        raise UsageError("--image '': give an image's name, such as tf-toolkit:cpu")
    for word in (image, *arguments):
        _check_text("the argument", word)
    return Container(
        image=image,
        gpus=None if gpus is None else _gpus(gpus),
        memory=None if memory is None else _bytes(memory),
        nano_cpus=None if cpus is None else _nano_cpus(cpus),
        variables=_variables(variables or (), environ),
    )


def _gpus(text: str) -> int:
    if text == "all":
        return _ALL_GPUS
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise UsageError(f"--gpus {text!r}: give `all`, or how many each host has, such as 1")
    return int(text)


def _bytes(text: str) -> int:
    found = _MEMORY.fullmatch(text)
    if found is None:
        raise UsageError(f"--memory {text!r}: give a size such as 512m or 2g")
    size = int(float(found[1]) * _UNITS[found[2].lower()])
    if size < _LEAST_MEMORY:
        raise UsageError(f"--memory {text!r}: Docker takes no less than 6m; give a size such as 512m or 2g")
    return size


def _nano_cpus(text: str) -> int:
    nano = int(float(text) * 1e9) if _CPUS.fullmatch(text) else 0
    if nano < _LEAST_NANO_CPUS:
        raise UsageError(f"--cpus {text!r}: give a number of at least 0.01, such as 2 or 1.5")
    return nano


def _variables(words: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """No message shows a value: it may be a secret."""
    variables: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name:
            raise UsageError("--env: expected NAME=VALUE, or the NAME of a variable that is set here")
        if name in variables:
            raise UsageError(f"--env {name} is given twice; give each variable one value")
        if name in _NOT_GIVEN:
            raise UsageError(f"--env {name}: this is set for each run; leave it out")
        if not equals:
            if name not in environ:
                raise UsageError(f"--env {name}: there is no such variable here; set it, or give {name}=VALUE")
            value = environ[name]
        _check_text(f"--env {name}", name, value)
        variables[name] = value
    return variables


def _check_text(what: str, *words: str) -> None:
    """Docker's interface is JSON, which holds no other bytes."""
    try:
        "".join(words).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{what}{'' if what.startswith('--') else f' {words[0]!r}'} is not UTF-8, and Docker takes nothing else; "
            "without --image any bytes will do"
        ) from error
