"""A message to sys.exit."""

import sys

sys.exit("dataset is empty")
