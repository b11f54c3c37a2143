"""Shows what came of the hyperparameters: the arguments, each on a line, and SM_HPS."""

import json
import os
import sys
from pathlib import Path

for argument in sys.argv[1:]:
    print(json.dumps(argument))
(Path(os.environ["SM_MODEL_DIR"]) / "hyperparameters.json").write_text(os.environ["SM_HPS"])
