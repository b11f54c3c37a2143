"""One file of the job's description: its object, and errors that name the file and the key."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from tf_toolkit.errors import JobDescriptionError

_TYPE_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}


class Section:
    """One file's object, with errors that name the file and the key."""

    def __init__(self, path: Path, content: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.content = _read_object(path) if content is None else content

    def get(self, key: str, kind: type, default: Any) -> Any:
        value = self.content.get(key, default)
        if value is default:
            return default
        if not isinstance(value, kind):
            self.fail(key, found_type(value), _TYPE_NAMES[kind])
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        value = self.get(key, list, None)
        if value is None:
            self.fail(key, "nothing", "a list of strings")
        for item in value:
            if not isinstance(item, str):
                self.fail(key, f"a list with {found_type(item)} in it", "a list of strings")
        return tuple(value)

    def fail(self, key: str, found: str, expected: str) -> NoReturn:
        raise JobDescriptionError(f"{self.path}: key {key!r}: found {found}, expected {expected}")


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or an empty one when there is no file."""
    try:
        # Not blocking: a FIFO that nobody writes must not hold the job.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise JobDescriptionError(f"{path}: not a regular file; expected a file that holds a JSON object")
            raw = file.read()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise JobDescriptionError(
            f"{path}: cannot be read: {error.strerror}; expected a file that holds a JSON object"
        ) from error
    try:
        content = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise JobDescriptionError(
            f"{path}: byte {error.start} is not UTF-8; expected a JSON object in UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        found = str(error) if raw.strip() else "the file is empty"
        raise JobDescriptionError(f"{path}: not JSON: {found}; expected a JSON object") from error
    if not isinstance(content, dict):
        raise JobDescriptionError(f"{path}: found {found_type(content)}, expected a JSON object")
    return content


def found_type(value: object) -> str:
    """What a value is, as an error says it: ``a number (3)``."""
    text = json.dumps(value) if isinstance(value, (str, int, float)) else ""
    name = _TYPE_NAMES.get(type(value), "a number")
    return f"{name} ({text[:40]}{'...' if len(text) > 40 else ''})" if text else name
