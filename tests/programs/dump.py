"""Writes what it was given to model/seen.json."""

import json
import os
import sys
from pathlib import Path

seen = {
    "argv": sys.argv[1:],
    "env": dict(os.environ),
    "cwd": str(Path.cwd()),
    "path0": sys.path[0],
    "executable": sys.executable,
}
model = Path(os.environ["SM_MODEL_DIR"])
model.mkdir(parents=True, exist_ok=True)
(model / "seen.json").write_text(json.dumps(seen))
