"""A message and a status of its own."""

import sys

print("usage statistics are off", file=sys.stderr)
print("dataset is empty:\n  /opt/ml/input/data/train has no files", file=sys.stderr)
sys.exit(3)
