"""What the image brings: Python, the toolkit, and TensorFlow, which only a process of its own imports."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from tf_toolkit.local.doctor.check import Check, failed, passed, warned
from tf_toolkit.local.doctor.later import Processes

_DISTRIBUTION = "tf-toolkit"
# As a distribution is called, so is its module.
_IMPORT = """
import importlib
from importlib import metadata
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        say(name=name, version=metadata.version(name))
    except Exception as error:
        say(name=name, error=f"{type(error).__name__}: {error}")
"""
_TENSORFLOW = """
import tensorflow as tf
say(version=tf.__version__, cuda=tf.test.is_built_with_cuda())
say(cuda_version=tf.sysconfig.get_build_info().get("cuda_version"))
say(gpus=len(tf.config.list_physical_devices("GPU")))
"""


class TensorFlow(NamedTuple):
    """What importing it showed."""

    # None where it cannot be imported.
    version: str | None
    cuda: bool
    # That it is built for, such as "12.5.1"; None where it does not say.
    cuda_version: str | None
    # None where it was asked in vain.
    gpus: int | None
    # Why there is no version, or no number of GPUs.
    cause: str
    log: str


def python() -> Check:
    return passed("Python", f"{platform.python_version()}, {sys.executable}")


def train(path: str) -> Check:
    """Whether the platform's word runs this package."""
    ours = f"put the folder of tf-toolkit's `train` ({Path(sys.executable).parent}) first on PATH"
    found = shutil.which("train", path=path)
    if found is None:
        return failed("train", "no `train` on PATH", ours)
    try:
        text = Path(found).read_bytes()
    except OSError as error:
        return failed("train", f"{found} cannot be read: {error.strerror}", ours)
    if b"tf_toolkit" not in text:
        return failed("train", f"{found} is another program", ours)
    return passed("train", found)


def requirements(processes: Processes) -> Check:
    """What the toolkit itself needs."""
    wanted = _wanted(None)
    if wanted is None:
        return failed("requirements", f"{_DISTRIBUTION} is not installed", f"pip install {_DISTRIBUTION}")
    found, problems = _imported(processes, wanted)
    if problems:
        return failed("requirements", problems, f"pip install {' '.join(wanted)}")
    return passed("requirements", found)


def s3(processes: Processes) -> Check:
    """What code, requirements and output on AWS need besides."""
    wanted = _wanted("s3")
    remedy = f"for code, requirements or output on AWS: pip install '{_DISTRIBUTION}[s3]'"
    if wanted is None:
        return warned("S3", f"{_DISTRIBUTION} is not installed", remedy)
    found, problems = _imported(processes, wanted)
    return warned("S3", problems, remedy) if problems else passed("S3", found)


def look_at_tensorflow(processes: Processes) -> TensorFlow:
    """Import it, and have it list the GPUs."""
    ran = processes.python(_TENSORFLOW)
    answer = ran.answer
    return TensorFlow(
        version=answer.get("version"),
        cuda=bool(answer.get("cuda")),
        cuda_version=answer.get("cuda_version"),
        gpus=answer.get("gpus"),
        cause=ran.cause or "said nothing of itself",
        log=ran.stderr,
    )


def tensorflow(found: TensorFlow) -> Check:
    if found.version is not None:
        return passed("TensorFlow", f"{found.version}, built {'for' if found.cuda else 'without'} CUDA")
    if found.cause == "ModuleNotFoundError: No module named 'tensorflow'":
        return failed("TensorFlow", "not installed", "pip install tensorflow-cpu, or 'tensorflow[and-cuda]' for GPUs")
    remedy = f"unless a line above tells why, install it anew; `{sys.executable} -c 'import tensorflow'` shows all"
    return failed("TensorFlow", f"cannot be imported: {found.cause}", remedy)


def _wanted(extra: str | None) -> tuple[str, ...] | None:
    """The names of our requirements, or of those of one extra; None where we are not installed."""
    try:
        lines = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return None
    found = []
    for line in lines:
        name, condition = re.match(r"([\w.-]+)[^;]*;?(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
        of = re.search(r"extra\s*==\s*['\"]([\w.-]+)['\"]", condition)
        if (of[1] if of else None) == extra:
            found.append(name)
    return tuple(found)


def _imported(processes: Processes, names: Sequence[str]) -> tuple[str, str]:
    """Import them: names and versions, and what is wrong, if anything is."""
    ran = processes.python(_IMPORT, *names)
    said = {answer["name"]: answer for answer in ran.said}
    versions, problems = [], []
    for name in names:
        answer = said.get(name, {"error": ran.cause})
        if "version" in answer:
            versions.append(f"{name} {answer['version']}")
        elif answer["error"] == f"ModuleNotFoundError: No module named '{name}'":
            problems.append(f"{name} is not installed")
        else:
            problems.append(f"{name} cannot be imported: {answer['error']}")
    return ", ".join(versions), "; ".join(problems)
