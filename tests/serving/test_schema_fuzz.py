"""schemathesis over /openapi.json: to what is right or wrong by the description, the answers are as described."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import DEADLINE, PROGRAMS
from serve_process import JSON, Server, serving

FOLDER = PROGRAMS / "serving" / "schemathesis"


def check(server: Server, folder: Path, examples: int) -> None:
    """Schemathesis finds nothing. It tries the same each time."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(FOLDER / "schemathesis.toml")]
    command += ["run", "--no-color", "--warnings=off", "--generation-deterministic", f"--max-examples={examples}"]
    command += [f"http://127.0.0.1:{server.port}/openapi.json"]
    environ = {**os.environ, "PYTHONPATH": str(FOLDER), "SCHEMATHESIS_HOOKS": "hooks"}

    # It leaves files where it runs.
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=10 * DEADLINE
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert server.get("/ping").status == 200
    assert "Traceback" not in server.log


def test_models_of_numbers_texts_and_examples(saved_models: Path, tmp_path: Path) -> None:
    models = {name: saved_models / name for name in ("digits", "half_plus_two", "vocabulary")}
    with serving(tmp_path / "ml", models, SAGEMAKER_TFS_DEFAULT_MODEL_NAME="digits") as server:
        check(server, tmp_path, 5)


def test_models_that_are_loaded_and_unloaded(saved_models: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "ml", {}, SAGEMAKER_MULTI_MODEL="true") as server:
        # The one in the example of the description, and one that is loaded already.
        for name in ("NAME", "digits"):
            shutil.copytree(saved_models / "digits", server.root / "models" / name / "model" / "digits")
        body = {"model_name": "digits", "url": f"{server.root}/models/digits/model"}
        assert server.ask("POST", "/models", json.dumps(body), JSON).status == 200
        check(server, tmp_path, 10)
        asked = {(line["method"], line["path"], line["status"]) for line in server.access_log}
    assert {("POST", "/models", 200), ("GET", "/models/NAME", 200), ("DELETE", "/models/NAME", 200)} <= asked
    assert ("POST", "/models/digits/invoke", 200) in asked
