"""What the image promises and an install must not replace: TensorFlow, what is built against it, and our own legs.

Installed versions become constraints, so that the installer itself, which knows how versions compare, finds the
collision. Several distributions hold the one module ``tensorflow`` (tensorflow, tensorflow-cpu, ...), and installers
do not know it: one that the image lacks would be installed over the one that it has. For each of those the constraint
is therefore a stand-in, an empty wheel of the version that the image has. It answers for ``tensorflow>=2.10`` in a
requirement, or in what a requirement needs, and puts no file on top of another.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tf_toolkit.requirements.file import normalised

_TENSORFLOW = (
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-gpu",
    "intel-tensorflow",
    "tensorflow-intel",
    "tensorflow-cpu-aws",
    "tensorflow-aarch64",
    "tensorflow-rocm",
    "tf-nightly",
    "tf-nightly-cpu",
    "tf-nightly-gpu",
)
_OTHERS = frozenset(
    {
        *("tf-keras", "keras", "horovod", "mpi4py", "tf-toolkit", "psutil", "retrying"),
        # Of `serve`.
        *("httptools", "orjson", "uvicorn", "uvloop"),
    }
)
_CUDA = "nvidia-"
# The local part of a stand-in's version, https://peps.python.org/pep-0440/#local-version-identifiers, says whose place
# it takes: "2.15.1+by.tensorflow.cpu".
_STANDS_BY = "+by."


class Protection(NamedTuple):
    """What is protected: the constraints, and for each name in them the package that the image has."""

    constraints: Path
    # By normalised name, as a message says it: "tensorflow-cpu 2.15.1".
    packages: Mapping[str, str]


def installed() -> dict[str, str]:
    """Name and version of every distribution of the running environment, looked up afresh."""
    import importlib
    from importlib import metadata

    importlib.invalidate_caches()
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        said = distribution.metadata
        # What a broken uninstall leaves behind has neither.
        if "Name" in said and "Version" in said:
            found.setdefault(normalised(said["Name"]), said["Version"])
    return found


def protect(present: Mapping[str, str], folder: Path) -> Protection:
    """Write the constraints that keep what is ``present`` into ``folder``."""
    lines: list[str] = []
    packages: dict[str, str] = {}
    for name, version in present.items():
        if _STANDS_BY not in version and (name in _TENSORFLOW or name in _OTHERS or name.startswith(_CUDA)):
            lines.append(f"{name}=={version}")
            packages[name] = f"{name} {version}"
    holder = next((name for name in _TENSORFLOW if name in packages), None)
    if holder is not None:
        for name in _TENSORFLOW:
            if name not in packages:
                wheel = _write_stand_in(name, holder, present[holder], folder)
                lines.append(f"{name} @ {wheel.as_uri()}")
                packages[name] = packages[holder]
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{line}\n" for line in lines))
    return Protection(constraints, packages)


def _write_stand_in(name: str, holder: str, version: str, folder: Path) -> Path:
    """A wheel without a module: https://packaging.python.org/en/latest/specifications/binary-distribution-format/."""
    import zipfile

    version = f"{version.partition('+')[0]}{_STANDS_BY}{holder.replace('-', '.')}"
    stem = f"{name.replace('-', '_')}-{version}"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: Stands for {holder}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: tf-toolkit\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{stem}.dist-info/{file},,\n" for file in (*files, "RECORD"))
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in {**files, "RECORD": record}.items():
            archive.writestr(f"{stem}.dist-info/{file}", text)
    return wheel
