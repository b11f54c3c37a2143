"""Each host works for the seconds that it is told, and then writes its part of the model, or fails."""

import json
import os
import time
from pathlib import Path

parameters = json.loads(os.environ["SM_HPS"])
rank = int(os.environ["SM_CURRENT_HOST_RANK"])
(Path(os.environ["SM_OUTPUT_DATA_DIR"]) / f"log-{rank}.txt").write_text("begun")
time.sleep(parameters["seconds"][rank])
if parameters.get("fails") == rank:
    raise ValueError(f"host {rank} is bad")
(Path(os.environ["SM_MODEL_DIR"]) / f"part-{rank}").write_text("trained")
print(f"host {rank} is done")
