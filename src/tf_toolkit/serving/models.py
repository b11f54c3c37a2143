"""Which models a folder holds: every ``saved_model.pb`` below it, in a folder whose name is a number.

That number is the version, the folder above is the model, and its name the model's: ``export/Servo/7/saved_model.pb``
is version 7 of ``Servo``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tf_toolkit.serving import saved_model
from tf_toolkit.serving.errors import ModelError

_SHOWN_ENTRIES = 40
_KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")


class FoundModel(NamedTuple):
    """A model on disk."""

    name: str
    base_path: Path
    # By their numbers.
    versions: Mapping[int, Path]
    # Folders beside them with a number for a name, and no SavedModel in them.
    empty: tuple[Path, ...]


def find_models(folder: Path) -> dict[str, FoundModel]:
    """The models below ``folder``, sorted by name. Raises ModelError where there is none, or two of one name."""
    bases: dict[Path, dict[int, Path]] = {}
    for directory in _saved_models(folder):
        if is_version(directory.name):
            versions = bases.setdefault(directory.parent, {})
            number = int(directory.name)
            if number in versions:
                raise ModelError(
                    f"{versions[number]} and {directory} are both version {number}; remove or rename one of them"
                )
            versions[number] = directory
    if not bases:
        raise ModelError(_none_found(folder))
    models: dict[str, FoundModel] = {}
    for base, versions in sorted(bases.items(), key=lambda item: item[0].name):
        other = models.get(base.name)
        if other is not None:
            raise ModelError(f"{other.base_path} and {base} are both a model named {base.name!r}; rename one of them")
        models[base.name] = FoundModel(base.name, base, dict(sorted(versions.items())), _empty(base, versions))
    return models


def is_version(name: str) -> bool:
    """Whether a folder's name is a version: at most what fits into the 64 bits that TensorFlow Serving has for it."""
    return name.isascii() and name.isdigit() and int(name[:40]) < 1 << 63 and len(name) <= 40


def _empty(base: Path, versions: Mapping[int, Path]) -> tuple[Path, ...]:
    found = set(versions.values())
    return tuple(
        sorted(path for path in base.iterdir() if is_version(path.name) and path not in found and path.is_dir())
    )


def _saved_models(folder: Path) -> Iterator[Path]:
    """Folders with a SavedModel."""
    for directory, files in _folders(folder):
        if saved_model.FILE_NAME in files:
            yield directory


def _folders(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """All folders but hidden ones, with their files' names; through links too, and below no folder twice."""
    seen = set()
    waiting: list[Path] = [folder]
    links: list[Path] = []
    while waiting or links:
        # Links come last, so that what they lead to goes by its own name.
        directory = waiting.pop() if waiting else links.pop(0)
        try:
            status = directory.stat()
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError as error:
            raise ModelError(f"{error.filename}: {error.strerror}") from error
        yield directory, [entry.name for entry in entries if entry.is_file()]
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            inner = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
            waiting += [directory / entry.name for entry in reversed(inner) if not entry.is_symlink()]
            links += [directory / entry.name for entry in inner if entry.is_symlink()]


def _none_found(folder: Path) -> str:
    """What was looked at, by which rule, and what is likely meant."""
    tree = list(_tree(folder, ""))
    shown = [*tree[:_SHOWN_ENTRIES], *([f"... and {len(tree) - _SHOWN_ENTRIES} more"] if tree[_SHOWN_ENTRIES:] else [])]
    lines = [
        f"no SavedModel bundles found! A model is a folder MODEL/VERSION/{saved_model.FILE_NAME} at any depth below "
        f"{folder}, where VERSION is a number. {_remedy(folder)}",
        *(f"  {line}" for line in shown or ["the folder is empty"]),
    ]
    return "\n".join(lines)


def _remedy(folder: Path) -> str:
    files = [directory / name for directory, names in _folders(folder) for name in names]
    bundle = next((path for path in files if path.name == saved_model.FILE_NAME), None)
    if bundle is not None and bundle.parent == folder:
        return f"Move {saved_model.FILE_NAME} and what lies beside it into a folder such as {folder / '1'}."
    if bundle is not None:
        return f"{bundle.parent.name!r} is no number: rename {bundle.parent}, such as to {bundle.parent.parent / '1'}."
    keras = next((path for path in files if path.suffix in _KERAS_SUFFIXES), None)
    if keras is not None:
        return f"{keras} is a Keras file: export it by model.export('1'), and put that folder below {folder}."
    text = next((path for path in files if path.name == "saved_model.pbtxt"), None)
    if text is not None:
        return f"{text} is in text format: save the model in binary."
    archive = next((path for path in files if path.name.endswith((".tar.gz", ".tgz"))), None)
    if archive is not None:
        return f"{archive} is to be unpacked first."
    return "Have training save its model there, such as by model.export('/opt/ml/model/1')."


def _tree(folder: Path, indent: str, depth: int = 4) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            yield f"{indent}{path.name} -> {path.readlink()}"
        elif path.is_dir():
            yield f"{indent}{path.name}/"
            if depth > 1:
                yield from _tree(path, indent + "  ", depth - 1)
        else:
            yield f"{indent}{path.name}"
