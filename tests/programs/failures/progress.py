"""A progress bar, not ended by a newline, before the traceback."""

import sys

for step in range(5000):
    sys.stderr.write(f"\r{step / 50:3.0f}%|{'#' * (step // 500):10s}| {step}/5000 [00:00<00:00]")
raise ValueError("bad learning rate")
