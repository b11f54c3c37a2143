"""The trees of tests/opt_ml: each folder is what the platform mounts at /opt/ml, with an expected.json in it.

A case is added by adding a folder. Its expected.json has ``about``, which says what the case tells, and ``status``,
``train``'s exit status. ``failure`` is how the first line of output/failure begins; without it, output/success must be
there. Three more can be left out: ``stdout``, all lines of standard output; ``log``, pieces of standard error; and
``files``, the whole text of files in the tree. What is the tree's own place in them is called /opt/ml.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "opt_ml"
CASES = sorted(path.parent.name for path in FOLDER.glob("*/expected.json"))
_REQUIRED = {"about", "status"}
_ALLOWED = _REQUIRED | {"failure", "stdout", "log", "files"}


class Case:
    """A copy of one case's tree, which a job may write into."""

    def __init__(self, name: str, root: Path) -> None:
        self.root = root
        shutil.copytree(FOLDER / name, root)
        self.expected: dict[str, Any] = json.loads((root / "expected.json").read_text())
        assert _REQUIRED <= set(self.expected) <= _ALLOWED, f"{name}/expected.json has other keys than {_ALLOWED}"

    def check(self, ended: subprocess.CompletedProcess[str]) -> None:
        """Compare how the job ended with what is expected."""
        stdout, log = self._told(ended.stdout), self._told(ended.stderr)
        assert ended.returncode == self.expected["status"], f"status {ended.returncode}:\n{stdout}{log}"
        if "stdout" in self.expected:
            assert stdout.splitlines() == self.expected["stdout"], f"other output:\n{stdout}"
        for piece in self.expected.get("log", ()):
            assert piece in log, f"not in the log: {piece!r}:\n{log}"
        for file, text in self.expected.get("files", {}).items():
            assert (self.root / file).read_text() == text, f"{file} has {(self.root / file).read_text()!r}"
        success, failure = (self.root / "output" / name for name in ("success", "failure"))
        if "failure" in self.expected:
            first = self._told(failure.read_text()).partition("\n")[0]
            assert first.startswith(self.expected["failure"]), f"another failure: {first}"
        assert (success.exists(), failure.exists()) == ("failure" not in self.expected, "failure" in self.expected)

    def _told(self, text: str) -> str:
        return text.replace(str(self.root), "/opt/ml")
