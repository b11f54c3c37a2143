"""Fills the output directory's disk and does not notice."""

import contextlib
import os
from pathlib import Path

with contextlib.suppress(OSError):
    (Path(os.environ["SM_OUTPUT_DATA_DIR"]) / "fill").write_bytes(bytes(1 << 20))
