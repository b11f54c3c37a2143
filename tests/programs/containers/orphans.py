"""Leaves behind processes of its own that end at once, and waits until somebody has reaped them all."""

import contextlib
import subprocess
import time
from pathlib import Path


def zombies() -> int:
    """How many processes of this container have ended and were not reaped."""
    states = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            states.append(path.read_text().rpartition(")")[2].split()[0])
    return states.count("Z")


for _ in range(20):
    subprocess.run(["sh", "-c", "true & true & true &"], check=True)
end = time.monotonic() + 30
while zombies() and time.monotonic() < end:
    time.sleep(0.01)
print(f"{zombies()} zombies")
