"""Trains until TERM asks it to stop; then saves a checkpoint and leaves with the status that it was given."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--status", type=int)
arguments = parser.parse_args()


def stop(*_):
    (Path(os.environ["SM_MODEL_DIR"]) / "checkpoint").write_text("saved")
    sys.exit(arguments.status)


signal.signal(signal.SIGTERM, stop)
print("training", flush=True)
while True:
    time.sleep(0.1)
