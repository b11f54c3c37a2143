"""Adds up the numbers in each channel's files."""

import json
import os
from pathlib import Path

for name in json.loads(os.environ["SM_CHANNELS"]):
    folder = Path(os.environ[f"SM_CHANNEL_{name.upper()}"])
    numbers = [int(line) for path in sorted(folder.glob("**/*.csv")) for line in path.read_text().split()]
    print(f"{name}: {sum(numbers) if numbers else 'nothing'}")
