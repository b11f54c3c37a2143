"""`tf-toolkit` as a person starts it."""

from __future__ import annotations

import contextlib
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


def one_line(log: str) -> str:
    """A log that is nothing but an error."""
    assert log.count("\n") == 1, log
    assert log.startswith("tf-toolkit: error: "), log
    return log.strip()


def trap(file: str) -> str:
    """A script, with a child, that runs until INT or TERM comes, saves which it was, and leaves.

    The file is one of the model directory; its name may have variables in it, such as $SM_CURRENT_HOST.
    """
    return f"""
import os, signal, subprocess, sys, time
subprocess.Popen(["sleep", "600"])
def stop(number, frame):
    open(os.path.expandvars("$SM_MODEL_DIR/{file}"), "w").write(str(number))
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
print("begun", flush=True)
while True:
    time.sleep(0.1)
"""


def shown(keyboard: int) -> bytes:
    """All that was written to a terminal, once no process has it any more; closes it."""
    written = b""
    # EIO: the last process has closed its end.
    with contextlib.suppress(OSError):
        while piece := os.read(keyboard, 65536):
            written += piece
    os.close(keyboard)
    return written


def explained(directory: Path, *words: str | bytes, **options: Any) -> dict[str, Any]:
    """What `tf-toolkit explain WORDS... --json` says."""
    result = tf_toolkit(directory, "explain", "--json", *words, **options)
    assert result.status == 0, result.log
    found: dict[str, Any] = json.loads(result.stdout)
    return found
