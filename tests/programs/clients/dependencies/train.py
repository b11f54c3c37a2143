"""Needs a library that the SDK sends along."""

import os
from pathlib import Path

from library import word

(Path(os.environ["SM_MODEL_DIR"]) / "word").write_text(word)
(Path(os.environ["SM_OUTPUT_DATA_DIR"]) / "channels").write_text(os.environ["SM_CHANNELS"])
