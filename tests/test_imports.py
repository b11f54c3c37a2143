"""What starting the launcher, and importing any module of ours, costs and leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import DEADLINE, Job

FRAMEWORKS = {"horovod", "keras", "numpy", "tensorflow"}
# Each costs milliseconds or megabytes that a plain job has no use for.
SLOW = {
    "asyncio",
    "boto3",
    "botocore",
    "dataclasses",
    "docker",
    "importlib.metadata",
    "inspect",
    "psutil",
    "rich",
    "tarfile",
    "tempfile",
    "urllib.request",
    "watchdog",
    "zipfile",
}
# But for what the launcher never imports: pipe_mode, which scripts do, and serving, which is another program.
IMPORT_ALL = """\
import importlib, json, pathlib, sys
import tf_toolkit
root = pathlib.Path(tf_toolkit.__file__).parent.parent
for file in root.glob("tf_toolkit/**/*.py"):
    *packages, module = file.relative_to(root).with_suffix("").parts
    if module != "__main__" and not {"pipe_mode", "serving"} & {*packages}:
        importlib.import_module(".".join(packages if module == "__init__" else [*packages, module]))
print(json.dumps(sorted(sys.modules)))
"""


def test_a_plain_job_imports_nothing_slow(job: Job) -> None:
    job.code("train.py", "print('trained')\n")
    # The script's own imports are listed too: none of them is among the slow.
    job.environ["PYTHONPROFILEIMPORTTIME"] = "1"

    result = job.train()

    assert result.status == 0, result.log
    imported = {line.rpartition("|")[2].strip() for line in result.log.splitlines() if line.startswith("import time:")}
    assert "tf_toolkit.supervisor" in imported
    assert not imported & (SLOW | FRAMEWORKS)


def test_importing_every_module_imports_no_framework_and_leaves_nothing_on_disk(tmp_path: Path) -> None:
    environ = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "SAGEMAKER_BASE_DIR": str(tmp_path / "ml")}

    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        check=True,
        timeout=DEADLINE,
    )

    modules = set(json.loads(done.stdout))
    assert {"tf_toolkit.train", "tf_toolkit.local.cli"} <= modules
    assert not modules & FRAMEWORKS
    assert list(tmp_path.iterdir()) == []
