"""Colours in what is printed last."""

import sys

sys.exit("\033[1;31mdataset is empty\033[0m")
