"""Needs the package that it is a part of."""

import importlib.metadata
import os
from pathlib import Path

import small_package

assert importlib.metadata.version("small_package") == small_package.version
(Path(os.environ["SM_MODEL_DIR"]) / "version").write_text(small_package.version)
