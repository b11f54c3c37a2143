"""Bytes that are no UTF-8, before the exception and in its message."""

import sys

sys.stderr.buffer.write(b"\xff\xfe\x00 latin-1: caf\xe9\n")
sys.stderr.reconfigure(encoding="latin-1")
raise ValueError("bad learning rate in café")
