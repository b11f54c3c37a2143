"""`tf-toolkit` as a person starts it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import DEADLINE, PROGRAMS, Result

DUMP = PROGRAMS / "dump.py"


def start(
    directory: Path, *words: str | bytes, variables: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """`tf-toolkit WORDS...` in a directory, with nothing of an outer job in its environment."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not re.match(r"SM_|SAGEMAKER|AWS|TF_|OMP|KMP|PIP_|PYTHON|CI$", name)
    }
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    return subprocess.Popen(
        [sys.executable, "-m", "tf_toolkit.local", *words],
        cwd=directory,
        env={**environ, **(variables or {})},
        **options,
    )


def finish(process: subprocess.Popen[bytes], directory: Path, deadline: float = DEADLINE) -> Result:
    try:
        stdout, stderr = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Result(process.returncode, stdout or b"", stderr or b"", directory / "out")


def tf_toolkit(directory: Path, *words: str | bytes, **options: Any) -> Result:
    """`tf-toolkit WORDS...` to its end; what is left in the folder `out` is the result's."""
    return finish(start(directory, *words, **options), directory)


def script(directory: Path, text: str, name: str = "train.py") -> str:
    """Write a script; its path."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return name


def everything(directory: Path) -> dict[str, Any]:
    """All that is below a directory, by name: what would show a change."""
    found: dict[str, Any] = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(directory))] = (status.st_mode, status.st_ino, status.st_mtime_ns, content)
    return found


def explained(directory: Path, *words: str | bytes, **options: Any) -> dict[str, Any]:
    """What `tf-toolkit explain WORDS... --json` says."""
    result = tf_toolkit(directory, "explain", "--json", *words, **options)
    assert result.status == 0, result.log
    found: dict[str, Any] = json.loads(result.stdout)
    return found
